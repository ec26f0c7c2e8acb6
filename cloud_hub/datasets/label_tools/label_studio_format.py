"""Label Studio's JSON (labelstud.io/guide/export#JSON) and its labelling set-up. Pure.

1. A task is read: one choice (pictures, messages, time series) or rectangles. The last annotation
   that was not cancelled counts. None: nobody has labelled it; an empty one: nothing is to be seen.
2. It cannot be read, and is a problem of that task: several choices, rotated rectangles, rectangles
   with several labels, and regions of other kinds (polygons, spans of text or time).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated
from xml.sax.saxutils import quoteattr

import msgspec
from msgspec import Meta

from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled
from cloud_hub.datasets.label_tools.refusals import wrong_file
from cloud_hub.datasets.manifest import BOXES_MAX, ITEMS_MAX, ItemKind
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.readers.raw_texts import class_name

JSON_BYTES_MAX = 1 << 30
FILE_KEYS = ("file", "image", "img", "csv", "timeseries")  # Which datum names the item
PERCENT = 100.0
CHOICES, RECTANGLES = "choices", "rectanglelabels"
NOTES = frozenset({"textarea", "rating", "relation"})  # Beside labels; not ours, no harm

Percent = Annotated[float, Meta(ge=-1e4, le=1e4)]


class _Value(msgspec.Struct, omit_defaults=True):
    choices: list[str] = []
    x: Percent = 0.0
    y: Percent = 0.0
    width: Percent = 0.0
    height: Percent = 0.0
    rotation: float | None = None
    rectanglelabels: list[str] = []


class _Result(msgspec.Struct, omit_defaults=True):
    type: str
    value: _Value | None = None
    from_name: str = "label"
    to_name: str = "item"
    original_width: int | None = None
    original_height: int | None = None


class _Annotation(msgspec.Struct):
    result: Annotated[list[_Result], Meta(max_length=BOXES_MAX)]
    was_cancelled: bool = False


class _Task(msgspec.Struct):
    data: dict[str, object]
    annotations: list[_Annotation] = []
    id: int | None = None
    file_upload: str | None = None


_DECODER = msgspec.json.Decoder(Annotated[list[_Task], Meta(max_length=ITEMS_MAX)])


def decode_label_studio(data: bytes, *, where: str) -> LabelFile:
    """Return what an export says. Raises ContractError `dataset.layout`, naming the field."""
    try:
        tasks = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise wrong_file("label-studio", where, str(error)) from error
    items = []
    for index, task in enumerate(tasks):
        file = _file_of(task, index)
        if file is None:
            reason = f"$[{index}].data has no text and names no file ({', '.join(FILE_KEYS)})"
            raise wrong_file("label-studio", where, reason)
        text = task.data.get("text")
        items.append(replace(_item(task, file), text=text if isinstance(text, str) else None))
    names = {name for item in items for name in _names(item)}
    return LabelFile(tuple(sorted(names)), tuple(items))


def encode_label_studio(file: LabelFile, data: Sequence[dict[str, object]]) -> bytes:
    """Return tasks to import into Label Studio.

    Args:
        file: what is known; items without label and boxes become tasks to do.
        data: of each item what Label Studio shows: {"image": url}, {"text": ...}, {"csv": url}.
    """
    tasks = []
    for item, shown in zip(file.items, data, strict=True):
        is_done = item.label is not None or item.boxes is not None
        annotations = [_Annotation(_results(item))] if is_done else []
        tasks.append(_Task({**shown, "file": item.file}, annotations))
    return msgspec.json.encode(tasks)


def labelling_setup(
    kind: ItemKind, classes: Sequence[str], *, has_boxes: bool, channels: int = 0
) -> str:
    """Return the XML that a Label Studio project is set up with."""
    control = "RectangleLabels" if has_boxes else "Choices"
    option = "Label" if has_boxes else "Choice"
    options = "".join(f"<{option} value={quoteattr(name)}/>" for name in classes)
    match kind:
        case ItemKind.IMAGE:
            shown = '<Image name="item" value="$image"/>'
        case ItemKind.TEXT:
            shown = '<Text name="item" value="$text"/>'
        case ItemKind.WINDOW:
            lines = "".join(f'<Channel column="channel_{index}"/>' for index in range(channels))
            shown = (
                '<TimeSeries name="item" value="$csv" valueType="url" timeColumn="row">'
                f"{lines}</TimeSeries>"
            )
    return f'<View>{shown}<{control} name="label" toName="item">{options}</{control}></View>\n'


def _file_of(task: _Task, index: int) -> str | None:
    for key in FILE_KEYS:
        text = task.data.get(key)
        if isinstance(text, str) and text:
            return text
    if isinstance(task.data.get("text"), str):
        return f"task {index + 1 if task.id is None else task.id}"
    return task.file_upload


def _item(task: _Task, file: str) -> Labelled:
    done = [found for found in task.annotations if not found.was_cancelled]
    if not done:
        return Labelled(file)
    results = [found for found in done[-1].result if found.type not in NOTES]
    types = {found.type for found in results}
    if types - {CHOICES, RECTANGLES} or len(types) > 1:
        return Labelled(file, problem=f"has regions of type {', '.join(sorted(types))[:80]}")
    if types == {CHOICES}:
        return _chosen(results, file)
    return _boxed(results, file)


def _chosen(results: Sequence[_Result], file: str) -> Labelled:
    chosen = [name for found in results if found.value for name in found.value.choices]
    name = class_name(chosen[0]) if len(chosen) == 1 else None
    if name is None:
        return Labelled(file, problem=f"has {len(chosen)} choices, or one without a usable name")
    return Labelled(file, label=name)


def _boxed(results: Sequence[_Result], file: str) -> Labelled:
    boxes = []
    for found in results:
        value = found.value
        names = [] if value is None else value.rectanglelabels
        name = class_name(names[0]) if len(names) == 1 else None
        if value is None or name is None or value.rotation:
            return Labelled(file, problem="has a rectangle that is turned or has not one label")
        left, top = value.x / PERCENT, value.y / PERCENT
        right, bottom = (value.x + value.width) / PERCENT, (value.y + value.height) / PERCENT
        boxes.append(RawBox(name, left, top, right, bottom))
    return Labelled(file, boxes=tuple(boxes))


def _results(item: Labelled) -> list[_Result]:
    if item.label is not None:
        return [_Result(CHOICES, _Value(choices=[item.label]))]
    return [
        _Result(
            RECTANGLES,
            _Value(
                x=box.left * PERCENT,
                y=box.top * PERCENT,
                width=(box.right - box.left) * PERCENT,
                height=(box.bottom - box.top) * PERCENT,
                rotation=0.0,
                rectanglelabels=[box.class_name],
            ),
            original_width=item.width or None,
            original_height=item.height or None,
        )
        for box in item.boxes or ()
    ]


def _names(item: Labelled) -> list[str]:
    label = [] if item.label is None else [item.label]
    return label + [box.class_name for box in item.boxes or ()]
