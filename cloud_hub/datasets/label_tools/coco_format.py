"""COCO detection JSON (cocodataset.org/#format-data): decoded and encoded. Pure.

1. `bbox` is left, top, width, height in pixels of the picture. Crowds (iscrowd 1) are no single
   objects and are left out.
2. A picture without annotations: our own files tell in `is_labelled` whether nothing is to be seen
   on it or nobody looked; of others we cannot know.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled
from cloud_hub.datasets.label_tools.refusals import wrong_file
from cloud_hub.datasets.manifest import BOXES_MAX, CLASSES_MAX, ITEMS_MAX
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.readers.raw_texts import class_name

JSON_BYTES_MAX = 1 << 30
SIDE_MAX = 1_000_000

Side = Annotated[int, Meta(ge=1, le=SIDE_MAX)]
Pixels = Annotated[float, Meta(ge=-1e7, le=1e7)]
FileName = Annotated[str, Meta(min_length=1, max_length=1000)]


class _Image(msgspec.Struct):
    id: int
    file_name: FileName
    width: Side
    height: Side
    is_labelled: bool | None = None  # Ours


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[Pixels, Pixels, Pixels, Pixels]
    id: int = 0
    iscrowd: int = 0
    area: float = 0.0


class _Category(msgspec.Struct):
    id: int
    name: str


class _File(msgspec.Struct):
    images: Annotated[list[_Image], Meta(max_length=ITEMS_MAX)]
    categories: Annotated[list[_Category], Meta(max_length=CLASSES_MAX)]
    annotations: list[_Annotation] = []


_DECODER = msgspec.json.Decoder(_File)


def decode_coco(data: bytes, *, where: str) -> LabelFile:
    """Return what a COCO file says. Raises ContractError `dataset.layout`, naming the field."""
    try:
        told = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise wrong_file("coco", where, str(error)) from error
    names: dict[int, str] = {}
    for index, category in enumerate(told.categories):
        name = class_name(category.name)
        if name is None or category.id in names:
            reason = f"$.categories[{index}] has an empty, unprintable or long name or a second id"
            raise wrong_file("coco", where, reason)
        names[category.id] = name
    found: dict[int, list[_Annotation]] = {}
    for annotation in told.annotations:
        found.setdefault(annotation.image_id, []).append(annotation)
    items = tuple(_item(image, found.get(image.id, []), names) for image in told.images)
    ordered = [names[number] for number in sorted(names)]
    return LabelFile(tuple(dict.fromkeys(ordered)), items)


def encode_coco(file: LabelFile) -> bytes:
    """Return a COCO file; boxes only, and every picture's size must be known."""
    numbers = {name: index + 1 for index, name in enumerate(file.classes)}
    images: list[_Image] = []
    annotations: list[_Annotation] = []
    for number, item in enumerate(file.items, start=1):
        images.append(_Image(number, item.file, item.width, item.height, item.boxes is not None))
        for box in item.boxes or ():
            bbox = _to_pixels(box, item.width, item.height)
            annotations.append(
                _Annotation(
                    number,
                    numbers[box.class_name],
                    bbox,
                    id=len(annotations) + 1,
                    area=bbox[2] * bbox[3],
                )
            )
    categories = [_Category(number, name) for name, number in numbers.items()]
    return msgspec.json.encode(_File(images, categories, annotations))


def _item(image: _Image, annotations: Sequence[_Annotation], names: dict[int, str]) -> Labelled:
    problem = ""
    if any(annotation.category_id not in names for annotation in annotations):
        problem = "has a category_id that `categories` lacks"
    single = [found for found in annotations if not found.iscrowd]
    if len(single) > BOXES_MAX:
        problem = f"has over {BOXES_MAX} boxes"
    if problem:
        return Labelled(image.file_name, image.width, image.height, problem=problem)
    boxes = tuple(_box(found, image, names[found.category_id]) for found in single)
    is_labelled = bool(boxes) or image.is_labelled is not False
    return Labelled(
        image.file_name,
        image.width,
        image.height,
        boxes=boxes if is_labelled else None,
        is_unsure=not boxes and image.is_labelled is None,
    )


def _box(annotation: _Annotation, image: _Image, name: str) -> RawBox:
    left, top, width, height = annotation.bbox
    return RawBox(
        name,
        left / image.width,
        top / image.height,
        (left + width) / image.width,
        (top + height) / image.height,
    )


def _to_pixels(box: RawBox, width: int, height: int) -> tuple[float, float, float, float]:
    return (
        box.left * width,
        box.top * height,
        (box.right - box.left) * width,
        (box.bottom - box.top) * height,
    )
