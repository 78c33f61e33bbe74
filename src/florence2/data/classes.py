"""Class lists that packs name instead of spelling them out. Sources: COCO, PASCAL VOC, Clothing Co-Parsing, CamVid."""

from __future__ import annotations

_COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""
_VOC = """airplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dining table, dog, horse, motorcycle,
person, potted plant, sheep, couch, train, tv"""
_CLOTHES = """accessories, bag, belt, blazer, blouse, bodysuit, boots, bra, bracelet, cape, cardigan, clogs, coat,
dress, earrings, flats, glasses, gloves, hair, hat, heels, hoodie, intimate, jacket, jeans, jumper, leggings, loafers,
necklace, panties, pants, pumps, purse, ring, romper, sandals, scarf, shirt, shoes, shorts, skin, skirt, sneakers,
socks, stockings, suit, sunglasses, sweater, sweatshirt, swimwear, t-shirt, tie, tights, top, vest, wallet, watch,
wedges"""
_STREET = "sky, building, pole, road, sidewalk, tree, sign, fence, car, pedestrian, bicyclist"

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    name: tuple(" ".join(text.split()).split(", "))
    for name, text in (("coco80", _COCO), ("voc20", _VOC), ("ccp58", _CLOTHES), ("camvid11", _STREET))
}
