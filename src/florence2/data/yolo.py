"""YOLO: a text file of numbers per image, classes in ``data.yaml``.

    class x_centre y_centre width height        boxes, in parts of the photo
    class x y x y x y ...                       outlines

Read: ``data.yaml``, or its folder; without one, a folder with ``classes.txt``. As in Ultralytics, ``images`` in a path
becomes ``labels`` (else they lie side by side), and a photo without a label file is background. Pose files
(``kpt_shape``) give their boxes.

Written: ``data.yaml``, ``images/<split>/``, ``labels/<split>/``; photos of no split go to train. A line holds one
outline: parts of an object are joined by lines of no width, so that they fill the same pixels.

Source: docs.ultralytics.com, "Object detection datasets", "Instance segmentation datasets".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from florence2.data import fields
from florence2.data.files import ImageFolder, class_names, images_in, make_folder, write_lines
from florence2.data.records import Place, Record, Thing, broken
from florence2.errors import DataError, ImageError
from florence2.images import measure
from florence2.results import Polygon

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def recognise(source: Path) -> str | None:
    if source.is_file():
        return f"YOLO, classes in {source}" if source.suffix in (".yaml", ".yml") and "names" in _yaml(source) else None
    if settings := _settings(source):
        return f"YOLO, classes in {settings.name}"
    if (source / "classes.txt").is_file() and any(_labels_of(image).is_file() for image in images_in(source)):
        return "YOLO, classes in classes.txt"
    return None


def read(source: Path) -> Iterator[Record]:
    settings = source if source.is_file() else _settings(source)
    if settings is None:
        names = dict(enumerate(fields.read_text(source / "classes.txt").split("\n")))
        names = {number: name.strip() for number, name in names.items() if name.strip()}
        folders, pose = [("", source)], False
    else:
        document = _yaml(settings)
        names, pose = _names(document, settings), "kpt_shape" in document
        folders = [
            (split, folder)
            for key, split in SPLITS.items()
            for folder in _folders(document.get(key), document, settings)
        ]
        if not folders:
            yield broken(Place(str(settings)), "it names no images under train, val or test")
    for split, folder in folders:
        listed = _listed(folder)
        if not listed:
            yield broken(Place(str(settings or folder)), f"{folder} holds no images")
        for image in listed:
            yield from _record(image, names, split, pose)


def _record(image: Path, names: dict[int, str], split: str, pose: bool) -> Iterator[Record]:
    labels = _labels_of(image)
    place = Place(str(labels))
    try:
        size = measure(image)
        lines = fields.read_text(labels).splitlines() if labels.is_file() else []
    except (ImageError, DataError) as error:
        yield broken(place, error, image.stem)
        return
    things = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                things.append(_thing(line, names, size, pose))
            except DataError as error:
                yield broken(Place(str(labels), number), error, image.stem)
    yield Record(
        image=image,
        id=image.stem,
        width=size[0],
        height=size[1],
        objects=tuple(things),
        exhaustive=tuple(names.values()) or None,
        split=split,
        place=place,
    )


def _thing(line: str, names: dict[int, str], size: tuple[int, int], pose: bool) -> Thing:
    words = line.split()
    number = fields.whole(words[0], "the class")
    if number not in names:
        raise DataError(f"class {number} is not among the {len(names)} names")
    values = [fields.number(word, "a coordinate") for word in words[1:]]
    if pose:
        values = values[:4]
    pixels = tuple(value * size[i % 2] for i, value in enumerate(values))
    if len(values) == 4:
        x, y, width, height = pixels
        return Thing(label=names[number], box=(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) < 6:
        raise DataError(f"found {len(values)} coordinates, expected 4 of a box or at least 6 of an outline")
    if len(values) % 2:
        raise DataError(f"found {len(values)} coordinates; an outline has as many x as y")
    return Thing(label=names[number], box=fields.hull((pixels,)), polygons=(pixels,))


def _settings(folder: Path) -> Path | None:
    candidates = [folder / "data.yaml", folder / "data.yml", *sorted(folder.glob("*.yaml"))]
    return next((path for path in candidates if path.is_file() and "names" in _yaml(path)), None)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(fields.read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML ({error})") from error
    return document if isinstance(document, dict) else {}


def _names(document: dict[str, Any], settings: Path) -> dict[int, str]:
    names = document["names"]
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict):
        return {fields.whole(number, f"a class of {settings}"): str(name) for number, name in names.items()}
    raise DataError(f"the names in {settings} are {names!r}, expected a list, or numbers with names")


def _folders(value: Any, document: dict[str, Any], settings: Path) -> Iterator[Path]:
    """``train:`` may name a folder, a list of files, or several of both, below ``path`` or the settings' folder."""
    here = settings.parent
    root = Path(str(document.get("path") or "."))
    for name in value if isinstance(value, list) else [value] if value else []:
        tried = [here / root / str(name), here / str(name), here / str(name).removeprefix("../")]  # Roboflow's ../train
        yield next((path for path in tried if path.exists()), tried[0])


def _listed(place: Path) -> list[Path]:
    if place.is_dir():
        return list(images_in(place))
    if place.suffix != ".txt" or not place.is_file():
        return []
    return [place.parent / line.strip() for line in fields.read_text(place).splitlines() if line.strip()]


def _labels_of(image: Path) -> Path:
    parts = list(image.with_suffix(".txt").parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def write(records: Iterable[Record], target: Path) -> None:
    import yaml

    kept = list(records)  # the classes must be known before the first line
    names = class_names(kept)
    numbers = {name: number for number, name in enumerate(names)}
    folders: dict[str, ImageFolder] = {}
    for record in kept:
        split = SPLITS.get(record.split, "train")
        if split not in folders:
            folders[split] = ImageFolder(target / "images" / split)
            make_folder(target / "labels" / split)
        name = folders[split].add(record)
        lines = [_line(thing, numbers, (record.width, record.height)) for thing in record.objects or ()]
        write_lines((target / "labels" / split / name).with_suffix(".txt"), lines)
    settings: dict[str, Any] = {split: f"images/{split}" for split in folders}
    make_folder(target)
    document = {"path": ".", **settings, "nc": len(names), "names": names}
    (target / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _line(thing: Thing, numbers: dict[str, int], size: tuple[int, int]) -> str:
    if thing.polygons:
        values = _joined(thing.polygons)
    else:
        x0, y0, x1, y1 = thing.box
        values = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    parts = [f"{value / size[i % 2]:.9f}".rstrip("0").rstrip(".") for i, value in enumerate(values)]
    return " ".join([str(numbers[thing.label]), *parts])


def _joined(polygons: tuple[Polygon, ...]) -> Polygon:
    """One outline: each part, back to its first point, over to the next; the last closes at the first part's first."""
    if len(polygons) == 1:
        return polygons[0]
    there = tuple(value for polygon in polygons for value in (*polygon, *polygon[:2]))
    back = tuple(value for polygon in reversed(polygons[1:-1]) for value in polygon[:2])
    return there + back
