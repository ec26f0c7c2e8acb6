"""CVAT for images 1.1 (docs.cvat.ai, "CVAT for image"): XML, read with expat and written. Pure.

1. `<tag label>` is a picture's class, `<box>` an object in pixels. Other shapes, two tags and
   turned boxes are a problem of that picture.
2. A picture without tag and box: CVAT does not tell whether nobody looked at it.
3. Document type and entity declarations are refused; depth and counts are limited.
"""

from collections.abc import Mapping
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled
from cloud_hub.datasets.label_tools.refusals import wrong_file
from cloud_hub.datasets.manifest import BOXES_MAX, CLASSES_MAX, ITEMS_MAX
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.readers.raw_texts import class_name

XML_BYTES_MAX = 512 << 20
DEPTH_MAX = 32
SIDE_MAX = 1_000_000
NAME_CHARS_MAX = 1_000
TURN_DEGREES_MAX = 0.01
SHAPES = frozenset({"polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton"})


class _RefusedXmlError(Exception):
    """The XML says what is not allowed; the text says what."""


def decode_cvat(data: bytes, *, where: str) -> LabelFile:
    """Return what a CVAT file says. Raises ContractError `dataset.layout`, naming the line."""
    parser = expat.ParserCreate()
    found = _Annotations()
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.text
    parser.StartDoctypeDeclHandler = _refuse_declaration
    parser.EntityDeclHandler = _refuse_declaration
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise wrong_file("cvat", where, str(error)) from error
    except (_RefusedXmlError, ValueError, LookupError) as error:
        reason = f"line {parser.CurrentLineNumber}: {error}"
        raise wrong_file("cvat", where, reason) from error
    if not found.is_cvat:
        raise wrong_file("cvat", where, "its outermost element is not <annotations>")
    names = dict.fromkeys(found.classes)
    names.update(dict.fromkeys(name for item in found.items for name in _names(item)))
    return LabelFile(tuple(names), tuple(found.items))


def encode_cvat(file: LabelFile) -> bytes:
    """Return a CVAT file; of every picture the size must be known."""
    labels = "".join(f"<label><name>{_escaped(name)}</name></label>" for name in file.classes)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "<version>1.1</version>",
        f"<meta><task><size>{len(file.items)}</size><labels>{labels}</labels></task></meta>",
    ]
    for number, item in enumerate(file.items):
        lines.append(
            f'<image id="{number}" name={quoteattr(item.file)} '
            f'width="{item.width}" height="{item.height}">'
        )
        if item.label is not None:
            lines.append(f'<tag label={quoteattr(item.label)} source="manual"></tag>')
        lines += [_box_element(box, item) for box in item.boxes or ()]
        lines.append("</image>")
    lines.append("</annotations>\n")
    return "\n".join(lines).encode()


class _Annotations:
    """What the elements seen so far say."""

    def __init__(self) -> None:
        self.is_cvat = False
        self.classes: list[str] = []
        self.items: list[Labelled] = []
        self._path: list[str] = []
        self._image: Mapping[str, str] | None = None
        self._tags: list[str] = []
        self._boxes: list[RawBox] = []
        self._problem = ""
        self._text: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._path.append(name)
        if len(self._path) > DEPTH_MAX:
            raise _RefusedXmlError(f"elements lie over {DEPTH_MAX} deep")
        self._text.clear()
        if len(self._path) == 1:
            self.is_cvat = name == "annotations"
        elif self._path[1] == "image" and len(self._path) == 2:
            self._begin(attributes)
        elif self._path[1] == "track":
            raise _RefusedXmlError("it holds tracks, as 'CVAT for video' does")
        elif self._path[1] == "image" and len(self._path) == 3:
            self._see(name, attributes)

    def end(self, name: str) -> None:
        path = "/".join(self._path)
        if path.endswith("/labels/label/name") and path.startswith("annotations/meta/"):
            self._add_class("".join(self._text))
        elif len(self._path) == 2 and name == "image":
            self._finish()
        self._path.pop()

    def text(self, data: str) -> None:
        if self._path[-1:] == ["name"] and len(self._text) < NAME_CHARS_MAX:
            self._text.append(data)

    def _add_class(self, text: str) -> None:
        name = class_name(text)
        if name is None or len(self.classes) >= CLASSES_MAX:
            raise _RefusedXmlError("a label has no usable name, or there are too many")
        self.classes.append(name)

    def _begin(self, attributes: Mapping[str, str]) -> None:
        if len(self.items) >= ITEMS_MAX:
            raise _RefusedXmlError(f"there are over {ITEMS_MAX} pictures")
        self._image, self._tags, self._boxes, self._problem = attributes, [], [], ""

    def _see(self, name: str, attributes: Mapping[str, str]) -> None:
        if name in SHAPES:
            self._problem = f"has a {name}, which is no box"
        elif name in {"tag", "box"}:
            label = class_name(_attribute(attributes, "label"))
            if label is None:
                raise _RefusedXmlError(f"a <{name}> has no usable label")
            if name == "tag":
                self._tags.append(label)
            elif len(self._boxes) >= BOXES_MAX:
                self._problem = f"has over {BOXES_MAX} boxes"
            else:
                self._boxes.append(self._box(label, attributes))

    def _box(self, label: str, attributes: Mapping[str, str]) -> RawBox:
        assert self._image is not None
        if abs(_number(attributes, "rotation", "0")) > TURN_DEGREES_MAX:
            self._problem = "has a box that is turned"
        width, height = _side(self._image, "width"), _side(self._image, "height")
        return RawBox(
            label,
            _number(attributes, "xtl") / width,
            _number(attributes, "ytl") / height,
            _number(attributes, "xbr") / width,
            _number(attributes, "ybr") / height,
        )

    def _finish(self) -> None:
        assert self._image is not None
        file = _attribute(self._image, "name")
        if not 0 < len(file) <= NAME_CHARS_MAX:
            raise _RefusedXmlError("an <image> has no name, or a very long one")
        width, height = _side(self._image, "width"), _side(self._image, "height")
        problem = self._problem
        if len(set(self._tags)) > 1 or (self._tags and self._boxes):
            problem = "has several tags, or tags and boxes"
        if problem:
            self.items.append(Labelled(file, width, height, problem=problem))
        elif self._tags:
            self.items.append(Labelled(file, width, height, label=self._tags[0]))
        else:
            boxes = tuple(self._boxes)
            self.items.append(Labelled(file, width, height, boxes=boxes, is_unsure=not boxes))
        self._image = None


def _box_element(box: RawBox, item: Labelled) -> str:
    corners = (
        f'xtl="{box.left * item.width!r}" ytl="{box.top * item.height!r}" '
        f'xbr="{box.right * item.width!r}" ybr="{box.bottom * item.height!r}"'
    )
    return (
        f'<box label={quoteattr(box.class_name)} source="manual" occluded="0" {corners} '
        'z_order="0"></box>'
    )


def _attribute(attributes: Mapping[str, str], name: str) -> str:
    if name not in attributes:
        raise _RefusedXmlError(f"the attribute {name!r} is missing")
    return attributes[name]


def _number(attributes: Mapping[str, str], name: str, default: str | None = None) -> float:
    text = attributes.get(name, default) if default is not None else _attribute(attributes, name)
    try:
        number = float(text or "")
    except ValueError as error:
        raise _RefusedXmlError(f"the attribute {name!r} is no number") from error
    if not abs(number) <= 1e7:
        raise _RefusedXmlError(f"the attribute {name!r} is no number of pixels")
    return number


def _side(attributes: Mapping[str, str], name: str) -> int:
    number = _number(attributes, name)
    if not 1 <= number <= SIDE_MAX:
        raise _RefusedXmlError(f"the attribute {name!r} is no size of a picture")
    return int(number)


def _names(item: Labelled) -> list[str]:
    return ([] if item.label is None else [item.label]) + [b.class_name for b in item.boxes or ()]


def _refuse_declaration(*_: object) -> None:
    raise _RefusedXmlError("document type and entity declarations are not allowed")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
