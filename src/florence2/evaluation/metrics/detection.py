"""Average precision of boxes and masks, as COCO and LVIS define it.

Overlaps and masks are pycocotools', the rest (``matching.py``) gives the same numbers sooner. What differs on purpose:

- Figures that do not exist (no truth of that size or class) are None, where pycocotools has -1.
- Equal scores are ordered by content, so the order of a file never changes a figure.
- ``ignore`` of an annotation counts: what matches it is neither right nor wrong. (pycocotools reads the field and
  overwrites it by ``iscrowd``.) Annotation ids play no part; pycocotools takes the id 0 for "no match".
- Nothing is printed, and nothing that was given is changed.

Sources: cocodataset.org, "Detection evaluation"; Gupta et al. (2019), "LVIS", section 3 and the evaluation of its API.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy

from florence2.errors import DataError
from florence2.evaluation.metrics import masks, matching
from florence2.evaluation.metrics.libraries import library

Kind = Literal["bbox", "segm"]
Figures = dict[str, "float | None"]
Entry = Mapping[str, Any]
Key = tuple[Any, Any]
"""(image id, category id)"""

MOST = 300
"""Detections of an image that count in LVIS."""


def coco_ap(truth: Mapping[str, Any], results: Sequence[Entry], kind: Kind = "bbox") -> Figures:
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, and AP-<class> of every class.

    ``truth`` is a COCO ground truth (images, annotations, categories), ``results`` are COCO results: image_id,
    category_id, score, and bbox (x, y, width, height) or segmentation (polygons or run lengths). Equal to
    ``pycocotools.cocoeval.COCOeval``.

    Raises DataError for an entry that is broken or of an unknown image or category.
    """
    return evaluate(truth, results, kind).coco()


def lvis_ap(truth: Mapping[str, Any], results: Sequence[Entry], kind: Kind = "bbox") -> Figures:
    """AP of a truth that is not exhaustive: AP, AP50, AP75, APs to APl, APr, APc, APf, AR300, ARs to ARl, AP-<class>.

    A class counts in an image only where it is known to be present (annotations) or absent (``neg_category_ids`` of
    the image); where it was not marked to the end (``not_exhaustive_category_ids``) a surplus detection is not wrong.
    The 300 best detections of an image count. r, c, f: classes that are rare, common, frequent (``frequency`` of a
    category). Equal to ``lvis.LVISEval``.
    """
    return evaluate(truth, results, kind, federated=True).lvis()


def is_federated(truth: Mapping[str, Any]) -> bool:
    """Does the truth say of its images which classes were looked for, as LVIS does?"""
    images = truth.get("images")
    return isinstance(images, list) and any(isinstance(i, Mapping) and "neg_category_ids" in i for i in images)


@dataclass(frozen=True)
class Evaluation:
    """What AP and AR are means of; -1 where there is no truth."""

    categories: tuple[Entry, ...]
    limits: tuple[int, ...]
    precision: Any
    """(T, R, K, A): thresholds, recalls, classes, areas."""
    recall: Any
    """(T, K, A, L): with the limits to the number of detections in an image."""

    def coco(self) -> Figures:
        recalls = {f"AR{limit}": self.ar(limit=number) for number, limit in enumerate(self.limits)}
        return {**self._aps(), **recalls, **self._ars(), **self._classes()}

    def lvis(self) -> Figures:
        rarity = {
            f"AP{letter}": self.ap(classes=[n for n, c in enumerate(self.categories) if c.get("frequency") == letter])
            for letter in "rcf"
        }
        return {**self._aps(), **rarity, f"AR{self.limits[-1]}": self.ar(), **self._ars(), **self._classes()}

    def ap(self, iou: int | None = None, area: int = 0, classes: Sequence[int] | None = None) -> float | None:
        """The mean over what exists; ``iou`` is the number of a threshold, 0.5 the first, steps of 0.05."""
        found = self.precision[..., area]  # (T, R, K)
        found = found if iou is None else found[iou : iou + 1]
        return _mean(found if classes is None else found[..., list(classes)])

    def ar(self, area: int = 0, limit: int = -1) -> float | None:
        return _mean(self.recall[..., area, limit])

    def _aps(self) -> Figures:
        sizes = {f"AP{letter}": self.ap(area=number) for number, letter in enumerate("sml", start=1)}
        return {"AP": self.ap(), "AP50": self.ap(iou=0), "AP75": self.ap(iou=5), **sizes}

    def _ars(self) -> Figures:
        return {f"AR{letter}": self.ar(area=number) for number, letter in enumerate("sml", start=1)}

    def _classes(self) -> Figures:
        names = Counter(category["name"] for category in self.categories)
        return {
            f"AP-{c['name']}" if names[c["name"]] == 1 else f"AP-{c['name']} ({c['id']})": self.ap(classes=[number])
            for number, c in enumerate(self.categories)
        }


def evaluate(
    truth: Mapping[str, Any], results: Sequence[Entry], kind: Kind = "bbox", federated: bool = False
) -> Evaluation:
    """The evaluation behind ``coco_ap`` and ``lvis_ap``, for further figures."""
    known = _truth(truth, kind, federated)
    limits = (MOST,) if federated else (1, 10, 100)
    found = _detections(known, results, kind)
    precision = numpy.zeros((len(matching.THRESHOLDS), len(matching.RECALLS), 0, len(matching.AREAS)))
    recall = numpy.zeros((len(matching.THRESHOLDS), 0, len(matching.AREAS), len(limits)))
    curves = []
    for category in known.categories:
        groups = _groups(known, found, category["id"], limits[-1])
        curves.append(matching.curves(list(groups.values()), limits))
    if curves:
        precision = numpy.stack([precision for precision, _ in curves], axis=2)
        recall = numpy.stack([recall for _, recall in curves], axis=1)
    return Evaluation(known.categories, limits, precision, recall)


@dataclass(frozen=True)
class Rankings:
    """The detections of every class, for figures in which images count differently often (the bootstrap)."""

    classes: tuple[str, ...]
    images: tuple[Any, ...]
    """Ids, in the order of the weights."""
    rankings: tuple[matching.Ranking, ...]

    def ap(self, weights: matching.Floats, iou: int | None = None) -> float | None:
        """COCO's AP where image m counts ``weights[m]`` times; with all 1 that of ``coco_ap``."""
        thresholds = slice(None) if iou is None else slice(iou, iou + 1)
        return _mean(numpy.array([ranking.ap(weights, thresholds) for ranking in self.rankings]))


def rankings(truth: Mapping[str, Any], results: Sequence[Entry], kind: Kind = "bbox") -> Rankings:
    """What ``coco_ap`` is computed from."""
    known = _truth(truth, kind, federated=False)
    found, most = _detections(known, results, kind), 100
    numbers = {id: number for number, id in enumerate(known.images)}
    ranked = []
    for category in known.categories:
        groups = _groups(known, found, category["id"], most)
        images = [numbers[id] for id in groups]
        ranked.append(matching.rank(list(groups.values()), images, len(numbers), most))
    return Rankings(tuple(category["name"] for category in known.categories), tuple(known.images), tuple(ranked))


@dataclass(frozen=True)
class _Region:
    shape: Any
    """(x, y, width, height), or a mask in run lengths."""
    area: float
    order: Any
    """By which equal scores are ordered."""
    score: float = 1.0
    crowd: bool = False
    ignored: bool = False


def _groups(known: _Truth, found: Mapping[Key, list[_Region]], category: Any, limit: int) -> dict[Any, matching.Group]:
    """Of one class, by image: where it was found or is."""
    keys = [(image_id, category) for image_id in known.images]
    return {
        key[0]: _group(found.get(key, [])[:limit], known.regions.get(key, []), key in known.unfinished)
        for key in keys
        if key in found or key in known.regions
    }


def _group(found: list[_Region], true: list[_Region], lenient: bool) -> matching.Group:
    overlaps = numpy.zeros((len(found), len(true)))
    if found and true:
        shapes = [[region.shape for region in several] for several in (found, true)]
        overlaps = library("pycocotools.mask").iou(*shapes, [int(region.crowd) for region in true])
    return matching.Group(
        scores=numpy.array([region.score for region in found]),
        areas=numpy.array([region.area for region in found]),
        overlaps=overlaps,
        true_areas=numpy.array([region.area for region in true]),
        crowd=numpy.array([region.crowd for region in true], dtype=bool),
        ignored=numpy.array([region.ignored for region in true], dtype=bool),
        lenient=lenient,
    )


def _mean(values: Any) -> float | None:
    there = values[values > -1]
    return float(numpy.mean(there)) if there.size else None


# Reading


@dataclass(frozen=True)
class _Truth:
    images: dict[Any, tuple[int, int] | None]
    """Size (width, height) of every image, where it is known, in the order of the ids."""
    categories: tuple[Entry, ...]
    regions: dict[Key, list[_Region]]
    checked: dict[Any, set[Any]] | None
    """LVIS: the classes that were looked for, by image."""
    unfinished: set[Key]
    """LVIS: where a class was not marked to the end."""


def _truth(truth: Mapping[str, Any], kind: Kind, federated: bool) -> _Truth:
    images: dict[Any, tuple[int, int] | None] = {}
    for number, image in enumerate(_list(truth, "images")):
        what = f"image {number} of the truth"
        sides = [int(_number(image, name, what)) for name in ("width", "height") if name in image]
        images[_new(image, images, what)] = (sides[0], sides[1]) if len(sides) == 2 else None
    if not images:
        raise DataError("the truth lists no images; expected a COCO ground truth with images")
    categories: dict[Any, Entry] = {}
    for number, category in enumerate(_list(truth, "categories")):
        what = f"category {number} of the truth"
        if not isinstance(category.get("name"), str):
            raise DataError(f"the name of {what} is {category.get('name')!r}, expected a text")
        categories[_new(category, categories, what)] = category
    regions: dict[Key, list[_Region]] = {}
    for number, annotation in enumerate(_list(truth, "annotations")):
        what = f"annotation {annotation.get('id', number)} of the truth"
        key = _place(annotation, images, categories, what)
        region = _region(annotation, kind, images[key[0]], what)
        area = _number(annotation, "area", what) if "area" in annotation else region.area
        crowd = bool(annotation.get("iscrowd", 0))
        ignored = crowd or bool(annotation.get("ignore", 0))
        regions.setdefault(key, []).append(replace(region, area=area, crowd=crowd, ignored=ignored))
    for several in regions.values():
        several.sort(key=lambda region: (region.crowd, region.ignored, region.order, region.area))
    ordered = {id: images[id] for id in _sorted(images)}
    known = _Truth(ordered, tuple(categories[id] for id in _sorted(categories)), regions, None, set())
    return _federated(known, truth["images"]) if federated else known


def _federated(known: _Truth, images: Sequence[Entry]) -> _Truth:
    checked: dict[Any, set[Any]] = {image["id"]: set(_ids(image, "neg_category_ids")) for image in images}
    for image_id, category_id in known.regions:
        checked[image_id].add(category_id)
    unfinished = {(image["id"], id) for image in images for id in _ids(image, "not_exhaustive_category_ids")}
    return replace(known, checked=checked, unfinished=unfinished)


def _detections(known: _Truth, results: Sequence[Entry], kind: Kind) -> dict[Key, list[_Region]]:
    """By image and class, the best first; of LVIS only those that count."""
    categories = {category["id"]: category for category in known.categories}
    by_image: dict[Any, list[tuple[_Region, Any]]] = {}
    for number, result in enumerate(results):
        what = f"result {number}"
        if not isinstance(result, Mapping):
            raise DataError(f"{what} is a {type(result).__name__}, expected an object with image_id and score")
        image_id, category_id = _place(result, known.images, categories, what)
        if known.checked is not None and category_id not in known.checked[image_id]:
            continue
        region = _region(result, kind, known.images[image_id], what, _number(result, "score", what))
        by_image.setdefault(image_id, []).append((region, category_id))
    found: dict[Key, list[_Region]] = {}
    for image_id, several in by_image.items():
        several.sort(key=lambda pair: (-pair[0].score, pair[0].order, str(pair[1])))
        for region, category_id in several[:MOST] if known.checked is not None else several:
            found.setdefault((image_id, category_id), []).append(region)
    return found


def _region(entry: Entry, kind: Kind, size: tuple[int, int] | None, what: str, score: float = 1.0) -> _Region:
    if kind == "bbox" and "bbox" in entry:
        box = _box(entry["bbox"], what)
        return _Region(box, box[2] * box[3], box, score)
    if "segmentation" not in entry:
        raise DataError(f"{what} has no {'bbox' if kind == 'bbox' else 'segmentation'}; it holds {', '.join(entry)}")
    mask = masks.run_lengths(entry["segmentation"], size, what)
    tools = library("pycocotools.mask")
    if kind == "bbox":
        box = [float(v) for v in tools.toBbox(mask)]
        return _Region(box, box[2] * box[3], box, score)
    return _Region(mask, float(tools.area(mask)), mask["counts"], score)


def _list(truth: Mapping[str, Any], name: str) -> list[Entry]:
    values = truth.get(name) if isinstance(truth, Mapping) else None
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, Mapping) for value in values):
        raise DataError(
            f"the truth has no list of {name}; expected a COCO ground truth (images, annotations, categories)"
        )
    return list(values)


def _new(entry: Entry, known: Mapping[Any, Any], what: str) -> Any:
    """The id of an entry, which no other may have."""
    id = entry.get("id")
    if isinstance(id, bool) or not isinstance(id, (int, str)):
        raise DataError(f"{what} has the id {id!r}, expected a whole number or a text")
    if id in known:
        raise DataError(f"{what} has the id {id!r}, as another before it; ids must differ")
    return id


def _place(entry: Entry, images: Mapping[Any, Any], categories: Mapping[Any, Entry], what: str) -> Key:
    image_id, category_id = entry.get("image_id"), entry.get("category_id")
    if not isinstance(image_id, (int, float, str)) or image_id not in images:
        raise DataError(f"{what} is of image {image_id!r}, which the truth does not list")
    if category_id is None and "category_name" in entry:  # as our own results have it without a table of ids
        category_id = next((id for id, c in categories.items() if c["name"] == entry["category_name"]), None)
        if category_id is None:
            raise DataError(
                f"{what} is of the class {entry['category_name']!r}, which is no category of the truth; ask only "
                "for its classes (detect(photo, labels=[...])) or leave the others out"
            )
    if not isinstance(category_id, (int, float, str)) or category_id not in categories:
        raise DataError(f"{what} is of category {category_id!r}, which the truth does not list")
    return image_id, category_id


def _ids(image: Entry, name: str) -> Iterable[Any]:
    values = image.get(name, ())
    if not isinstance(values, (list, tuple)):
        raise DataError(f"{name} of image {image['id']!r} is {values!r}, expected a list of category ids")
    return values


def _box(value: Any, what: str) -> list[float]:
    good = isinstance(value, (list, tuple)) and len(value) == 4 and all(_is_number(v) for v in value)
    if not good or value[2] < 0 or value[3] < 0:
        raise DataError(f"the bbox of {what} is {value!r}, expected (x, y, width, height)")
    return [float(v) for v in value]


def _number(entry: Entry, name: str, what: str) -> float:
    if not _is_number(entry.get(name)):
        raise DataError(f"the {name} of {what} is {entry.get(name)!r}, expected a number")
    return float(entry[name])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _sorted(ids: Iterable[Any]) -> list[Any]:
    """Numbers before texts, each in their order."""
    return sorted(ids, key=lambda id: (isinstance(id, str), id))
