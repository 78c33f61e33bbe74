"""The things that can be drawn: each is a list of parts, painted in this order. Together they are the thing."""

from __future__ import annotations

import math
from collections.abc import Callable

from florence2.data.scenes.strokes import (
    BODY,
    DARK,
    LIGHT,
    Part,
    Points,
    arch,
    bar,
    both,
    disc,
    line,
    mirrored,
    regular,
)


def plain(points: Points) -> Callable[[], list[Part]]:
    """A drawing of one polygon."""
    return lambda: [(points, BODY)]


def ring() -> list[Part]:
    return [(arch(50, 50, 50, 28, 0, 180), BODY), (arch(50, 50, 50, 28, 180, 360), BODY)]


def sun() -> list[Part]:
    return [(regular(12, 50, 34), BODY), (disc(50, 50, 27), LIGHT)]


def heart() -> list[Part]:
    angles = [math.radians(a) for a in range(0, 360, 9)]
    waves = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in angles]
    return [(tuple((50 + 3 * 16 * math.sin(t) ** 3, 46 - 3 * w) for t, w in zip(angles, waves, strict=True)), BODY)]


def moon() -> list[Part]:
    return [(disc(50, 50, 48, 48, 55, 305) + disc(68, 50, 40, 40, 282, 78), BODY)]


def cloud() -> list[Part]:
    puffs = ((26, 58, 20), (45, 44, 24), (67, 50, 20), (82, 62, 15))
    return [(bar(8, 56, 96, 77, 10), BODY), *((disc(*puff), BODY) for puff in puffs)]


def house() -> list[Part]:
    windows = both(bar(22, 58, 37, 73), "glass")
    return [
        (bar(70, 12, 80, 40), DARK),
        (bar(12, 44, 88, 100), BODY),
        (((0, 48), (50, 6), (100, 48)), DARK),
        (bar(43, 68, 57, 100), "wood"),
        *windows,
    ]


def tree() -> list[Part]:
    crown = [(disc(50, 30, 28), BODY), (disc(30, 47, 24), BODY), (disc(70, 47, 24), BODY)]
    return [(bar(43, 60, 57, 100), "wood"), *crown, (disc(42, 27, 10), LIGHT), (disc(66, 44, 8), LIGHT)]


def pine() -> list[Part]:
    layers = [
        (((50, y), (50 + w, y + h), (50 - w, y + h)), BODY) for y, w, h in ((0, 22, 32), (18, 30, 36), (40, 38, 42))
    ]
    return [(bar(44, 80, 56, 100), "wood"), *layers]


def car() -> list[Part]:
    body = ((0, 62), (4, 48), (22, 44), (36, 24), (70, 24), (84, 44), (97, 50), (100, 62), (100, 72), (0, 72))
    windows = [(((29, 44), (39, 29), (51, 29), (51, 44)), "glass"), (((55, 29), (67, 29), (77, 44), (55, 44)), "glass")]
    wheels = [(disc(x, 72, r), tone) for x in (24, 77) for r, tone in ((12, "tyre"), (5, "steel"))]
    return [(body, BODY), *windows, (bar(93, 52, 99, 58), "gold"), *wheels]


def truck() -> list[Part]:
    wheels = [(disc(x, 76, r), tone) for x in (20, 44, 82) for r, tone in ((10, "tyre"), (4, "steel"))]
    cab = ((64, 76), (64, 38), (84, 38), (97, 56), (100, 60), (100, 76))
    return [(bar(0, 20, 62, 76), BODY), (cab, DARK), (((71, 43), (82, 43), (91, 57), (71, 57)), "glass"), *wheels]


def bus() -> list[Part]:
    windows = [(bar(x, 32, x + 16, 50), "glass") for x in (7, 28, 49)]
    wheels = [(disc(x, 78, r), tone) for x in (24, 76) for r, tone in ((11, "tyre"), (4, "steel"))]
    return [
        (bar(0, 22, 100, 78, 7), BODY),
        *windows,
        (bar(72, 32, 94, 70), "glass"),
        (bar(0, 58, 70, 62), DARK),
        *wheels,
    ]


def sailboat() -> list[Part]:
    hull = ((0, 74), (100, 74), (84, 98), (16, 98))
    return [
        (hull, BODY),
        (bar(47, 4, 52, 74), "wood"),
        (((51, 8), (92, 66), (51, 66)), "cream"),
        (((48, 18), (48, 66), (12, 66)), LIGHT),
    ]


def ship() -> list[Part]:
    portholes = [(disc(x, 76, 4), "glass") for x in (30, 50, 70)]
    cabin = [(bar(28, 42, 72, 62), "cream"), (bar(36, 48, 46, 56), "glass"), (bar(54, 48, 64, 56), "glass")]
    return [(bar(52, 16, 64, 42), DARK), *cabin, (((0, 62), (100, 62), (86, 92), (16, 92)), BODY), *portholes]


def flower() -> list[Part]:
    petals = [
        (disc(50 + 19 * math.cos(a), 28 + 19 * math.sin(a), 12.5), BODY)
        for a in (math.radians(60 * i) for i in range(6))
    ]
    leaves = [(((50, 84), (26, 62), (22, 72), (32, 84)), "leaf"), (((50, 84), (74, 62), (78, 72), (68, 84)), "leaf")]
    return [(bar(47.5, 30, 52.5, 100), "leaf"), *leaves, *petals, (disc(50, 28, 11), "gold")]


def tulip() -> list[Part]:
    bloom = ((28, 8), (40, 22), (50, 4), (60, 22), (72, 8), (74, 34), (64, 48), (50, 52), (36, 48), (26, 34))
    leaf = ((50, 100), (36, 88), (28, 58), (44, 74))
    return [(bar(47.5, 44, 52.5, 100), "leaf"), *both(leaf, "leaf"), (bloom, BODY)]


def cup() -> list[Part]:
    return [
        (arch(74, 48, 22, 12, -90, 90), BODY),
        (((8, 14), (78, 14), (74, 80), (64, 90), (22, 90), (12, 80)), BODY),
        (disc(43, 14, 35, 8), LIGHT),
        (disc(43, 15, 29, 5), "wood"),
    ]


def fish() -> list[Part]:
    tail, fin = ((28, 50), (0, 24), (8, 50), (0, 76)), ((44, 34), (54, 14), (70, 32))
    return [
        (tail, DARK),
        (fin, DARK),
        (disc(60, 50, 40, 25), BODY),
        (disc(82, 44, 6), "cream"),
        (disc(83, 44, 3), "ink"),
    ]


def ball() -> list[Part]:
    stripes = [((*disc(50, 50, 50, 50, a, a + 36), (50, 50)), "cream") for a in (20, 92, 164, 236, 308)]
    return [(disc(50, 50, 50), BODY), *stripes, (disc(50, 50, 8), BODY)]


def umbrella() -> list[Part]:
    scallops = tuple(p for x in (83.5, 61, 39, 16.5) for p in disc(x, 50, 11.2, 7, 0, -180))
    handle = arch(56.5, 88, 9, 4.5, 0, 180)
    dome = disc(50, 50, 50, 44, 180, 360) + scallops
    ribs = [(((50, 8), (61.5, 49), (38.5, 49)), LIGHT)]
    return [(bar(47.5, 2, 52, 88), "wood"), (handle, "wood"), (dome, BODY), *ribs]


def balloon() -> list[Part]:
    string = ((49, 80), (53, 86), (49, 93), (52, 100), (55, 100), (52.5, 93), (56, 86), (51.5, 80))
    knot = ((50, 72), (57, 82), (43, 82))
    return [(string, "steel"), (knot, DARK), (disc(50, 38, 32, 38), BODY), (disc(40, 25, 7, 10), LIGHT)]


def apple() -> list[Part]:
    lobes = [(disc(36, 58, 30, 36), BODY), (disc(64, 58, 30, 36), BODY), (bar(36, 40, 64, 88), BODY)]
    return [
        *lobes,
        (line(50, 34, 55, 8, 6), "wood"),
        (((55, 20), (66, 6), (84, 8), (76, 22)), "leaf"),
        (disc(26, 46, 6, 9), LIGHT),
    ]


def mushroom() -> list[Part]:
    spots = [(disc(x, y, r), "cream") for x, y, r in ((50, 20, 8), (24, 38, 7), (76, 38, 7), (50, 42, 5))]
    return [(bar(36, 48, 64, 100, 9), "cream"), (disc(50, 54, 50, 50, 180, 360), BODY), *spots]


def bird() -> list[Part]:
    wing, tail = ((40, 50), (70, 52), (50, 74), (34, 66)), ((12, 58), (0, 38), (32, 46))
    legs = [(line(x, 74, x + 2, 96, 3.5), "gold") for x in (46, 58)]
    body = [(disc(48, 58, 32, 22), BODY), (disc(74, 34, 18), BODY)]
    return [
        *legs,
        (((88, 28), (100, 35), (88, 42)), "gold"),
        (tail, DARK),
        *body,
        (wing, DARK),
        (disc(78, 31, 3.5), "ink"),
    ]


def butterfly() -> list[Part]:
    upper = disc(27, 32, 26, 27)
    return [
        *both(upper, BODY),
        *both(disc(34, 72, 18, 20), DARK),
        *both(disc(26, 32, 9), LIGHT),
        (bar(44, 40, 56, 78), BODY),
        *both(line(50, 26, 38, 6, 3), "ink"),
        (disc(50, 50, 5, 32), "ink"),
    ]


def rocket() -> list[Part]:
    body = ((50, 0), (60, 10), (68, 28), (70, 74), (30, 74), (32, 28), (40, 10))
    fire = ((36, 78), (64, 78), (50, 100))
    fins = both(((31, 50), (12, 72), (14, 88), (32, 74)), DARK)
    return [(fire, "gold"), *fins, (body, BODY), (bar(36, 74, 64, 80), "steel"), (disc(50, 36, 9), "glass")]


def key() -> list[Part]:
    teeth = [(bar(72, 54, 79, 70), BODY), (bar(87, 54, 95, 74), BODY)]
    return [
        (arch(22, 50, 22, 10, 0, 180), BODY),
        (arch(22, 50, 22, 10, 180, 360), BODY),
        (bar(42, 45, 100, 55), BODY),
        *teeth,
    ]


def bottle() -> list[Part]:
    glass = ((43, 14), (57, 14), (57, 32), (68, 46), (68, 100), (32, 100), (32, 46), (43, 32))
    return [(glass, BODY), (bar(41, 3, 59, 14), DARK), (bar(32, 58, 68, 84), "cream")]


def bell() -> list[Part]:
    body = ((50, 10), (66, 16), (74, 34), (78, 64), (90, 82), (10, 82), (22, 64), (26, 34), (34, 16))
    return [(disc(50, 86, 11), DARK), (disc(50, 9, 7), DARK), (body, BODY), (bar(10, 76, 90, 84), DARK)]


def leaf() -> list[Part]:
    blade = ((50, 0), (64, 10), (76, 28), (80, 48), (74, 66), (62, 78), (50, 84))
    veins = [p for y in (34, 50, 66) for p in both(line(50, y, 68, y - 13, 2.2), DARK)]
    return [
        (line(50, 78, 50, 100, 5), "wood"),
        (blade + mirrored(blade[::-1]), BODY),
        (line(50, 8, 50, 84, 3), DARK),
        *veins,
    ]


def drop() -> list[Part]:
    return [(((50, 0), *disc(50, 66, 34, 34, -32, 212)), BODY), (disc(38, 70, 7, 11), LIGHT)]


def bolt() -> list[Part]:
    return [(((58, 0), (18, 56), (44, 56), (34, 100), (82, 38), (54, 38), (74, 0)), BODY)]


def snowman() -> list[Part]:
    balls = [(disc(50, 76, 24), BODY), (disc(50, 42, 18), BODY), (disc(50, 18, 13), BODY)]
    eyes = [(disc(x, y, 2.4), "ink") for x, y in ((45, 15), (55, 15), (50, 38), (50, 48), (50, 70))]
    return [
        *balls,
        (bar(36, 4, 64, 8), "ink"),
        (bar(41, -10, 59, 6), "ink"),
        *eyes,
        (((50, 19), (50, 23), (66, 22)), "gold"),
    ]


def hat() -> list[Part]:
    return [
        (disc(50, 80, 50, 12), BODY),
        (((26, 80), (30, 28), (50, 24), (70, 28), (74, 80)), BODY),
        (((27, 70), (73, 70), (74, 80), (26, 80)), DARK),
    ]


def ice_cream() -> list[Part]:
    return [
        (((24, 44), (76, 44), (50, 100)), "wood"),
        (disc(50, 30, 30), BODY),
        (bar(20, 36, 80, 48, 6), BODY),
        (disc(40, 18, 7), LIGHT),
    ]


def flag() -> list[Part]:
    return [
        (bar(8, 0, 15, 100, 3), "steel"),
        (((15, 6), (52, 12), (92, 6), (92, 52), (52, 58), (15, 52)), BODY),
        (((15, 22), (52, 28), (92, 22), (92, 36), (52, 42), (15, 36)), LIGHT),
    ]


def candle() -> list[Part]:
    flame = ((50, 0), *disc(50, 20, 9, 9, -30, 210))
    return [
        (flame, "gold"),
        (bar(48.5, 26, 51.5, 38), "ink"),
        (bar(34, 36, 66, 100), BODY),
        (disc(50, 36, 16, 4), LIGHT),
    ]


def pencil() -> list[Part]:
    return [
        (bar(14, 42, 76, 58), BODY),
        (((76, 42), (100, 50), (76, 58)), "cream"),
        (((92, 47.3), (100, 50), (92, 52.7)), "ink"),
        (bar(8, 42, 16, 58), "steel"),
        (bar(0, 42, 9, 58, 3), DARK),
    ]


def book() -> list[Part]:
    return [
        (bar(12, 4, 88, 98, 4), DARK),
        (bar(22, 4, 88, 98, 4), BODY),
        (bar(34, 20, 76, 28), LIGHT),
        (bar(34, 34, 66, 40), LIGHT),
    ]


def chair() -> list[Part]:
    legs = [(bar(x, 56, x + 7, 100), DARK) for x in (20, 73)]
    return [
        *legs,
        (bar(40, 40, 60, 60), DARK),
        (bar(20, 0, 80, 44, 5), BODY),
        (bar(12, 54, 88, 66, 3), BODY),
    ]


def table() -> list[Part]:
    return [*both(bar(10, 30, 18, 90), DARK), (bar(0, 22, 100, 36, 3), BODY), (bar(18, 36, 82, 44), DARK)]


def lamp() -> list[Part]:
    return [
        (bar(47, 44, 53, 92), "steel"),
        (bar(28, 90, 72, 98, 3), DARK),
        (((32, 4), (68, 4), (86, 50), (14, 50)), BODY),
    ]


def clock() -> list[Part]:
    ticks = [
        (line(50 + 33 * c, 50 + 33 * s, 50 + 38 * c, 50 + 38 * s, 3), "ink")
        for c, s in ((math.cos(a * math.pi / 6), math.sin(a * math.pi / 6)) for a in range(12))
    ]
    return [
        (disc(50, 50, 50), BODY),
        (disc(50, 50, 40), "cream"),
        *ticks,
        (line(50, 54, 50, 22, 4), "ink"),
        (line(46, 48, 69, 60, 5), "ink"),
    ]


def plane() -> list[Part]:
    wing = ((48, 46), (58, 46), (38, 92), (26, 92))
    far = ((50, 42), (58, 42), (46, 14), (38, 14))
    tail = ((4, 44), (0, 20), (12, 20), (24, 42))
    windows = [(disc(x, 44, 2.4), "glass") for x in (40, 50, 60, 70)]
    return [
        (far, DARK),
        (tail, DARK),
        (disc(52, 48, 48, 11), BODY),
        *windows,
        (wing, DARK),
        (((86, 41), (94, 45), (84, 46)), "glass"),
    ]


def gift() -> list[Part]:
    bow = both(((50, 26), (22, 4), (18, 22)), LIGHT)
    return [*bow, (bar(8, 40, 92, 100), BODY), (bar(2, 26, 98, 44), DARK), (bar(43, 26, 57, 100), LIGHT)]


def cake() -> list[Part]:
    candles = [(bar(x, 20, x + 4, 42), "cream") for x in (28, 48, 68)] + [
        (disc(x + 2, 14, 3.5, 6), "gold") for x in (28, 48, 68)
    ]
    drips = [(disc(x, 58, 8, 9), "cream") for x in (20, 36, 52, 68, 82)]
    return [
        *candles,
        (bar(8, 42, 92, 96, 6), BODY),
        (bar(8, 42, 92, 58, 6), "cream"),
        *drips,
        (bar(0, 94, 100, 100), "steel"),
    ]


def ladybug() -> list[Part]:
    spots = [(disc(x, y, 6), "ink") for x, y in ((32, 48), (68, 48), (30, 72), (70, 72))]
    legs = [p for y in (48, 64, 80) for p in both(line(20, y, 2, y + 4, 3.5), "ink")]
    return [*legs, (disc(50, 22, 20), "ink"), (disc(50, 60, 40, 40), BODY), (bar(48.5, 22, 51.5, 100), "ink"), *spots]
