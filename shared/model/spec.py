"""ModelSpec: a task with a fixed input and output, whatever the weights. Written by people as TOML.

1. An image input is uint8 BGR pixels (H, W, 3) brought to (1, C, height, width) or
   (1, height, width, C): resized, colours ordered, then (value - mean) / scale per channel.
2. A window input is float32 samples (T, C) brought to (1, C, T) or (1, T, C), channel-first by
   default.
3. A text input is brought to int64 tokens (1, length): of bytes, byte + 1, and 0 where there is
   none; of a tokenizer.json, its ids and its padding (tokenizers_text.py).
4. The decoder says how outputs are read; see shared/model/README.md for the shapes of each.
5. With the decoder `forecast` a window's last `output.horizon` rows are kept back: the model sees
   the rows before them and is judged by how well it foretold these.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.errors import ContractError
from shared.settings import Settings, parse_toml
from shared.wire.limits import Name, Share, ShortText
from shared.wire.records import LABELS_MAX, VALUES_MAX

SPEC_BYTES_MAX = 64 * 1024
SIDE_MAX = 4096
CLASSES_MAX = 10_000
STRIDES_MAX = 8
REG_MAX_MAX = 64
USUAL_STRIDES = (8, 16, 32)
Side = Annotated[int, Meta(ge=1, le=SIDE_MAX)]


class Task(StrEnum):
    """What is concluded from one item."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    ANOMALY = "anomaly"
    REGRESSION = "regression"  # Numbers
    FORECAST = "forecast"  # Numbers to come
    SEGMENTATION = "segmentation"  # A class for each pixel


class Colour(StrEnum):
    """Order of channels that the model expects."""

    BGR = "bgr"
    RGB = "rgb"
    GRAY = "gray"


class Resize(StrEnum):
    """How a frame is brought to the model's size."""

    STRETCH = "stretch"
    LETTERBOX = "letterbox"  # Keeps proportions; the rest is `pad_value`


class Layout(StrEnum):
    """Order of axes of the model's input tensor."""

    CHANNELS_FIRST = "channels-first"
    CHANNELS_LAST = "channels-last"


class Decoder(StrEnum):
    """How the model's outputs are read."""

    LOGITS = "logits"  # (1, classes): softmax here
    PROBABILITIES = "probabilities"  # (1, classes): softmax in the graph
    FASTESTDET = "fastestdet"  # (1, 5 + classes, rows, columns) grid
    SSD_CORNERS = "ssd-corners"  # scores (1, n, 1 + classes), corner boxes (1, n, 4) in 0..1
    YOLO = "yolo"  # (1, n, 5 + classes): centre x, y, width, height in input pixels
    YOLOX = "yolox"  # The same, relative to the cells of grids
    YOLO_V8 = "yolov8"  # (1, 4 + classes, n): no objectness
    YUNET = "yunet"  # Classes, objectness, boxes, landmarks, each of every stride
    NANODET = "nanodet"  # (1, n, classes + 4 * (reg_max + 1)): sides as distributions
    BOXES = "boxes"  # (1, n, 6): left, top, right, bottom in input pixels, score, class
    RECONSTRUCTION = "reconstruction"  # Same shape as the input: score is the mean squared error
    FORECAST = "forecast"  # The window's last rows: score is the mean squared error
    SCORE = "score"  # One number
    VALUES = "values"  # (1, n) numbers
    MASK = "mask"  # (1, classes, h, w), or (1, 1, h, w): which class each pixel is of


DECODERS_BY_TASK = {
    Task.CLASSIFICATION: {Decoder.LOGITS, Decoder.PROBABILITIES},
    Task.DETECTION: {
        Decoder.FASTESTDET,
        Decoder.SSD_CORNERS,
        Decoder.YOLO,
        Decoder.YOLOX,
        Decoder.YOLO_V8,
        Decoder.YUNET,
        Decoder.NANODET,
        Decoder.BOXES,
    },
    Task.ANOMALY: {Decoder.RECONSTRUCTION, Decoder.FORECAST, Decoder.SCORE},
    Task.REGRESSION: {Decoder.VALUES},
    Task.FORECAST: {Decoder.VALUES},
    Task.SEGMENTATION: {Decoder.MASK},
}
TASKS_OF_CLASSES = {Task.CLASSIFICATION, Task.DETECTION, Task.SEGMENTATION}
TEXT_DECODERS = {Decoder.LOGITS, Decoder.PROBABILITIES, Decoder.SCORE, Decoder.VALUES}
GRID_DECODERS = {Decoder.YOLOX, Decoder.YUNET, Decoder.NANODET}
LOGIT_DECODERS = {Decoder.YOLO, Decoder.YOLOX, Decoder.YOLO_V8, Decoder.NANODET}
TEXT_TOKENS = 257  # Every byte, and 0: nothing there


class ImageInput(Settings, frozen=True, tag="image", tag_field="kind"):
    """Pixels; see rule 1."""

    width: Side
    height: Side
    colour: Colour = Colour.BGR
    resize: Resize = Resize.STRETCH
    layout: Layout = Layout.CHANNELS_FIRST
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (0.0,)
    scale: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (1.0,)
    pad_value: Annotated[int, Meta(ge=0, le=255)] = 114


class WindowInput(Settings, frozen=True, tag="window", tag_field="kind"):
    """Samples of one sensor; see rule 2."""

    samples: Side
    channels: Annotated[int, Meta(ge=1, le=256)] = 1
    layout: Layout = Layout.CHANNELS_FIRST
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (0.0,)
    scale: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (1.0,)


class Tokenizer(StrEnum):
    """What makes tokens of a text."""

    BYTES = "bytes"
    TOKENIZER_JSON = "tokenizer-json"  # A file of the `tokenizers` package beside the model


class TextInput(Settings, frozen=True, tag="text", tag_field="kind"):
    """A text's tokens; see rule 3. What is longer is cut."""

    length: Side
    tokenizer: Tokenizer = Tokenizer.BYTES


class OutputSpec(Settings, frozen=True):
    """How outputs are read."""

    decoder: Decoder
    classes: Annotated[tuple[ShortText, ...], Meta(max_length=CLASSES_MAX)] = ()
    confidence_min: Share = 0.35  # Detection: boxes below are dropped
    overlap_max: Share = 0.45  # Detection: IoU above which the weaker box of a class is dropped
    threshold: float = 0.0  # Anomaly: a score above is anomalous
    # Detection on grids: pixels between two cells of each grid, in the model's order of outputs.
    strides: Annotated[tuple[Side, ...], Meta(max_length=STRIDES_MAX)] = ()
    cell_centre: Share = 0.0  # NanoDet: where in a cell distances begin; 0.5 before NanoDet-Plus
    reg_max: Annotated[int, Meta(ge=1, le=REG_MAX_MAX)] = 7  # NanoDet: the farthest side, in cells
    is_logits: bool = False  # Detection: scores lack their sigmoid, which is taken here
    horizon: Annotated[int, Meta(ge=0, le=SIDE_MAX)] = 0  # Forecast error: rows kept back; rule 5
    unit: Annotated[str, Meta(max_length=32)] = ""  # Of the values, for people: "°C"


class Tolerance(Settings, frozen=True):
    """How far from golden outputs is good: |a - b| <= absolute + relative |b|."""

    absolute: Annotated[float, Meta(ge=0.0, le=1e6)] = 1e-3
    relative: Annotated[float, Meta(ge=0.0, le=1.0)] = 1e-2


class ModelSpec(Settings, frozen=True):
    """A model's contract."""

    model: Name
    task: Task
    input: ImageInput | WindowInput | TextInput
    output: OutputSpec
    tolerance: Tolerance = Tolerance()
    description: Annotated[str, Meta(max_length=2000)] = ""

    def __post_init__(self) -> None:
        """Refuse what the types cannot: the message names the field."""
        if self.output.decoder not in DECODERS_BY_TASK[self.task]:
            names = ", ".join(sorted(DECODERS_BY_TASK[self.task]))
            raise ValueError(f"output.decoder must be one of {names} for task {self.task}")
        if isinstance(self.input, TextInput) and self.output.decoder not in TEXT_DECODERS:
            names = ", ".join(sorted(TEXT_DECODERS))
            raise ValueError(f"output.decoder must be one of {names} for texts")
        _check_classes(self)
        _check_heads(self)
        _check_horizon(self)
        if isinstance(self.input, TextInput):
            return
        channels = self.channels_count
        for name, values in (("mean", self.input.mean), ("scale", self.input.scale)):
            if len(values) not in (1, channels):
                raise ValueError(f"input.{name} must have 1 or {channels} numbers")
        if any(value == 0 for value in self.input.scale):
            raise ValueError("input.scale must not be 0")

    @property
    def channels_count(self) -> int:
        """Return how many channels the model's input has."""
        match self.input:
            case ImageInput(colour=Colour.GRAY):
                return 1
            case ImageInput():
                return 3
            case WindowInput(channels=channels):
                return channels
            case TextInput():
                return 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of the input tensor for one item, batch axis included."""
        match self.input:
            case ImageInput(layout=Layout.CHANNELS_LAST) as image:
                return (1, image.height, image.width, self.channels_count)
            case ImageInput() as image:
                return (1, self.channels_count, image.height, image.width)
            case WindowInput(layout=Layout.CHANNELS_LAST) as window:
                return (1, window.samples - self.output.horizon, window.channels)
            case WindowInput() as window:
                return (1, window.channels, window.samples - self.output.horizon)
            case TextInput(length=length):
                return (1, length)


def _check_classes(spec: ModelSpec) -> None:
    classes = spec.output.classes
    if spec.task in TASKS_OF_CLASSES and not classes:
        raise ValueError(f"output.classes must name the classes for task {spec.task}")
    if spec.output.decoder is Decoder.YUNET and len(classes) != 1:
        raise ValueError("output.classes must be one name for decoder yunet")
    if spec.output.decoder is Decoder.VALUES and len(classes) > VALUES_MAX:
        raise ValueError(f"output.classes must be at most {VALUES_MAX} names of values")
    if spec.task is Task.SEGMENTATION and (
        len(classes) > LABELS_MAX or len(set(classes)) < len(classes)
    ):
        raise ValueError(
            f"output.classes must be at most {LABELS_MAX} different names for segmentation"
        )


def _check_heads(spec: ModelSpec) -> None:
    output = spec.output
    is_of_image = spec.task in (Task.DETECTION, Task.SEGMENTATION)
    if is_of_image and not isinstance(spec.input, ImageInput):
        raise ValueError(f"input.kind must be image for task {spec.task}")
    if output.strides and output.decoder not in (GRID_DECODERS | {Decoder.YOLO_V8}):
        raise ValueError(f"output.strides must be left out for decoder {output.decoder}")
    if output.is_logits and output.decoder not in LOGIT_DECODERS:
        names = ", ".join(sorted(LOGIT_DECODERS))
        raise ValueError(f"output.is_logits must be false except for decoders {names}")


def _check_horizon(spec: ModelSpec) -> None:
    horizon = spec.output.horizon
    if spec.output.decoder is not Decoder.FORECAST:
        if horizon:
            raise ValueError("output.horizon must be 0 except for decoder forecast")
        return
    samples = spec.input.samples if isinstance(spec.input, WindowInput) else 0
    if not samples:
        raise ValueError("input.kind must be window for decoder forecast")
    if not 0 < horizon < samples:
        raise ValueError(
            "output.horizon must be at least 1 and below input.samples for decoder forecast: "
            "the window's last rows, which the model foretells"
        )


def parse_spec(data: bytes, *, name: str = "spec.toml") -> ModelSpec:
    """Return TOML bytes as a ModelSpec.

    Raises ContractError `config.invalid` (naming the field) or `spec.too_large`.
    """
    if len(data) > SPEC_BYTES_MAX:
        raise ContractError(
            "spec.too_large",
            f"{name} is over {SPEC_BYTES_MAX} bytes.",
            remedy="A spec is a small TOML file: `edge-agent spec MODEL` drafts one.",
        )
    return parse_toml(data, ModelSpec, name=name)


def encode_spec(spec: ModelSpec) -> bytes:
    """Return a ModelSpec as canonical JSON bytes (sorted keys), the form that is signed."""
    return msgspec.json.encode(spec, order="deterministic")
