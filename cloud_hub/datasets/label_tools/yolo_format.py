"""YOLO's labels: data.yaml, and one .txt per picture with `class centre-x centre-y width height`.

Pure. All numbers are shares of the picture. No .txt: nobody has labelled the picture; an empty one:
nothing is to be seen on it.
"""

import math
from collections.abc import Mapping, Sequence

from cloud_hub.datasets.label_tools.refusals import wrong_file
from cloud_hub.datasets.label_tools.yaml_subset import BYTES_MAX, parse_yaml, quoted
from cloud_hub.datasets.manifest import BOXES_MAX, CLASSES_MAX
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.readers.raw_texts import class_name

NUMBERS = 5  # Of a line; a sixth is a detector's confidence, which labels do not have
TXT_BYTES_MAX = 1 << 20


def decode_names(data: bytes, *, where: str) -> tuple[str, ...]:
    """Return the classes of a data.yaml. Raises ContractError `dataset.layout`."""
    if len(data) > BYTES_MAX:
        raise wrong_file("yolo", where, f"it is over {BYTES_MAX} bytes")
    try:
        told = parse_yaml(data.decode("utf-8-sig"))
        names = told.get("names")
        if isinstance(names, dict):
            names = _in_order(names)
    except (ValueError, UnicodeDecodeError) as error:
        raise wrong_file("yolo", where, str(error)) from error
    if not isinstance(names, list) or not 0 < len(names) <= CLASSES_MAX:
        raise wrong_file("yolo", where, f"it has no `names`, a list of 1 to {CLASSES_MAX} classes")
    if len({class_name(name) for name in names} - {None}) < len(names):
        raise wrong_file("yolo", where, "`names` has an empty, unprintable or long name, or twins")
    return tuple(name.strip() for name in names)


def encode_names(classes: Sequence[str], parts: Sequence[str]) -> bytes:
    """Return a data.yaml whose pictures lie below images/<part>."""
    lines = ["path: ."] + [f"{part}: images/{part}" for part in parts]
    lines += ["names:"] + [f"  {number}: {quoted(name)}" for number, name in enumerate(classes)]
    return ("\n".join(lines) + "\n").encode()


def decode_boxes(data: bytes, classes: Sequence[str]) -> tuple[RawBox, ...] | str:
    """Return a picture's boxes, or what is wrong with them."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return "has labels that are no text"
    boxes = []
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells:
            continue
        box = _box(cells, classes)
        if box is None:
            return f"has labels whose line {number} is not `class x y width height`"
        boxes.append(box)
        if len(boxes) > BOXES_MAX:
            return f"has over {BOXES_MAX} boxes"
    return tuple(boxes)


def encode_boxes(boxes: Sequence[RawBox], classes: Sequence[str]) -> bytes:
    """Return a picture's boxes as lines."""
    numbers = {name: number for number, name in enumerate(classes)}
    lines = []
    for box in boxes:
        x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        width, height = box.right - box.left, box.bottom - box.top
        lines.append(f"{numbers[box.class_name]} {x!r} {y!r} {width!r} {height!r}\n")
    return "".join(lines).encode()


def _in_order(names: Mapping[str, str]) -> list[str]:
    """Return the names that numbers from 0 are given. Raises ValueError."""
    by_number = {int(number): name for number, name in names.items()}
    if sorted(by_number) != list(range(len(names))):
        raise ValueError("`names` does not count from 0")
    return [by_number[number] for number in range(len(names))]


def _box(cells: Sequence[str], classes: Sequence[str]) -> RawBox | None:
    if len(cells) != NUMBERS:
        return None
    try:
        number = int(cells[0])
        x, y, width, height = map(float, cells[1:])
    except ValueError:
        return None
    if not 0 <= number < len(classes) or not all(map(math.isfinite, (x, y, width, height))):
        return None
    half_width, half_height = width / 2, height / 2
    name = classes[number]
    return RawBox(name, x - half_width, y - half_height, x + half_width, y + half_height)
