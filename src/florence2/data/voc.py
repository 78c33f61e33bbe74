"""Pascal VOC: one XML file per image.

Read: a folder with XML files (``Annotations/`` beside ``JPEGImages/``, or XML files beside their images), or one XML
file. The files do not say which classes were looked for; ``labels.txt`` in the folder does, one name per line.

The devkit counts pixels from 1 and includes the last one, so ``xmin`` 1 is the edge at 0 and ``xmax`` stays as it is.
An ``xmin`` of 0, as some tools write it, is the edge at 0 as well. Outlines are read as Roboflow and supervision write
them (``<polygon><x1>..<y1>..``, counted from 1). Marks other than ``difficult`` (pose, truncated, parts) are not kept.

Written: ``Annotations/``, ``JPEGImages/``, ``labels.txt``. Coordinates may have fractions.

Source: Everingham et al., "The PASCAL VOC 2012 development kit", section "Annotation file format".
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path

from florence2.data import fields
from florence2.data.files import ImageFolder, find_image, make_folder, shared_classes, write_lines
from florence2.data.records import Place, Record, Thing, broken
from florence2.errors import DataError, ImageError
from florence2.images import measure
from florence2.results import Polygon


def recognise(source: Path) -> str | None:
    found = _files(source)
    return f"Pascal VOC, {len(found)} XML files" if found and _root_tag(found[0]) else None


def read(source: Path) -> Iterator[Record]:
    folder = source if source.is_dir() else source.parent
    labels = folder / "labels.txt"
    names = tuple(line.strip() for line in fields.read_text(labels).splitlines()) if labels.is_file() else ()
    for path in _files(source):
        yield from _record(path, folder, tuple(filter(None, names)) or None)


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix == ".xml" else []
    return sorted(source.rglob("*.xml"))


def _root_tag(path: Path) -> bool:
    """Broken files count: they are reported when they are read."""
    with path.open("rb") as stream:
        return b"<annotation" in stream.read(4096)


def _record(path: Path, folder: Path, names: tuple[str, ...] | None) -> Iterator[Record]:
    place = Place(str(path))
    try:
        root = ET.fromstring(path.read_bytes())
    except ET.ParseError as error:
        yield broken(Place(str(path), error.position[0]), f"it is no XML ({error})", path.stem)
        return
    name = (root.findtext("filename") or "").strip()
    here = path.parent
    image = find_image(
        name or path.stem, [here, here.parent / "JPEGImages", here.parent / "images", folder, folder / "images"]
    )
    if not image.is_file():  # some tools write the name without its suffix, or that of another file
        near = [p for parent in (here, here.parent / "JPEGImages") for p in sorted(parent.glob(f"{path.stem}.*"))]
        image = next((p for p in near if p.suffix not in (".xml", ".txt", ".json")), image)
    try:
        width, height = _size(root, image)
    except (DataError, ImageError) as error:
        yield broken(place, error, path.stem)
        return
    things = []
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            things.append(_thing(element))
        except DataError as error:
            yield broken(place, f"object {number}: {error}", path.stem)
    yield Record(
        image=image,
        id=path.stem,
        width=width,
        height=height,
        objects=tuple(things),
        exhaustive=names,
        place=place,
    )


def _size(root: ET.Element, image: Path) -> tuple[int, int]:
    width, height = root.findtext("size/width"), root.findtext("size/height")
    if width is None or height is None or "0" in (width.strip(), height.strip()):
        return measure(image)
    return fields.whole(width, "width"), fields.whole(height, "height")


def _thing(element: ET.Element) -> Thing:
    name = element.findtext("name")
    if name is None:
        raise DataError("it has no <name>")
    polygons = tuple(_polygon(polygon) for polygon in element.findall("polygon"))
    found = element.find("bndbox")
    if found is not None:
        x0, y0, x1, y1 = (fields.number(found.findtext(tag), tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        box = (0.0 if x0 == 0 else x0 - 1, 0.0 if y0 == 0 else y0 - 1, x1, y1)
    elif polygons:
        box = fields.hull(polygons)
    else:
        raise DataError("it has no <bndbox>")
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return Thing(label=name.strip(), box=box, polygons=polygons, difficult=difficult)


def _polygon(element: ET.Element) -> Polygon:
    values = []
    for number in range(1, len(element) // 2 + 1):
        for axis in ("x", "y"):
            values.append(fields.number(element.findtext(f"{axis}{number}"), f"<{axis}{number}> of a polygon") - 1)
    return tuple(values)


def write(records: Iterable[Record], target: Path) -> None:
    kept = list(records)
    images = ImageFolder(target / "JPEGImages")
    make_folder(target / "Annotations")
    names = shared_classes(kept)
    if names:
        write_lines(target / "labels.txt", names)
    for record in kept:
        name = images.add(record)
        tree = ET.ElementTree(_document(record, name))
        ET.indent(tree)
        tree.write((target / "Annotations" / name).with_suffix(".xml"), encoding="utf-8")


def _document(record: Record, name: str) -> ET.Element:
    root = ET.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size = ET.SubElement(root, "size")
    for tag, count in (("width", record.width), ("height", record.height), ("depth", 3)):
        _add(size, tag, count)
    _add(root, "segmented", int(any(thing.polygons for thing in record.objects or ())))
    for thing in record.objects or ():
        element = ET.SubElement(root, "object")
        _add(element, "name", thing.label)
        _add(element, "difficult", int(thing.difficult))
        box = ET.SubElement(element, "bndbox")
        x0, y0, x1, y1 = thing.box
        for tag, coordinate in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            _add(box, tag, _shown(coordinate))
        for polygon in thing.polygons:
            outline = ET.SubElement(element, "polygon")
            for i, value in enumerate(polygon):
                _add(outline, f"{'xy'[i % 2]}{i // 2 + 1}", _shown(value + 1))
    return root


def _add(parent: ET.Element, tag: str, value: object) -> None:
    ET.SubElement(parent, tag).text = str(value)


def _shown(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
