"""ModelSpec: a task with a fixed input and output, whatever the weights. Written by people as TOML.

1. An image input is uint8 BGR pixels (H, W, 3) brought to (1, C, height, width) or
   (1, height, width, C): resized, colours ordered, then (value - mean) / scale per channel.
2. A window input is float32 samples (T, C) brought to (1, C, T) or (1, T, C), channel-first by
   default.
3. A text input is UTF-8 bytes brought to int64 tokens (1, length): byte + 1, 0 where there is none.
4. The decoder says how outputs are read; see shared/model/postprocess.py.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.errors import ContractError
from shared.settings import Settings, parse_toml
from shared.wire.limits import Name, Share, ShortText

SPEC_BYTES_MAX = 64 * 1024
SIDE_MAX = 4096
CLASSES_MAX = 10_000
Side = Annotated[int, Meta(ge=1, le=SIDE_MAX)]


class Task(StrEnum):
    """What is concluded from one item."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    ANOMALY = "anomaly"


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
    BOXES = "boxes"  # (1, n, 6): left, top, right, bottom in input pixels, score, class
    RECONSTRUCTION = "reconstruction"  # Same shape as the input: score is the mean squared error
    SCORE = "score"  # One number


DECODERS_BY_TASK = {
    Task.CLASSIFICATION: {Decoder.LOGITS, Decoder.PROBABILITIES},
    Task.DETECTION: {Decoder.FASTESTDET, Decoder.SSD_CORNERS, Decoder.YOLO, Decoder.BOXES},
    Task.ANOMALY: {Decoder.RECONSTRUCTION, Decoder.SCORE},
}
TEXT_DECODERS = {Decoder.LOGITS, Decoder.PROBABILITIES, Decoder.SCORE}
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


class TextInput(Settings, frozen=True, tag="text", tag_field="kind"):
    """UTF-8 bytes; see rule 3. What is longer is cut."""

    length: Side


class OutputSpec(Settings, frozen=True):
    """How outputs are read."""

    decoder: Decoder
    classes: Annotated[tuple[ShortText, ...], Meta(max_length=CLASSES_MAX)] = ()
    confidence_min: Share = 0.35  # Detection: boxes below are dropped
    overlap_max: Share = 0.45  # Detection: IoU above which the weaker box of a class is dropped
    threshold: float = 0.0  # Anomaly: a score above is anomalous


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
        if self.task is not Task.ANOMALY and not self.output.classes:
            raise ValueError(f"output.classes must name the classes for task {self.task}")
        if isinstance(self.input, TextInput):
            if self.output.decoder not in TEXT_DECODERS:
                names = ", ".join(sorted(TEXT_DECODERS))
                raise ValueError(f"output.decoder must be one of {names} for texts")
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
                return (1, window.samples, window.channels)
            case WindowInput() as window:
                return (1, window.channels, window.samples)
            case TextInput(length=length):
                return (1, length)


def parse_spec(data: bytes, *, name: str = "spec.toml") -> ModelSpec:
    """Return TOML bytes as a ModelSpec.

    Raises ContractError `config.invalid` (naming the field) or `spec.too_large`.
    """
    if len(data) > SPEC_BYTES_MAX:
        raise ContractError("spec.too_large", f"{name} is over {SPEC_BYTES_MAX} bytes.")
    return parse_toml(data, ModelSpec, name=name)


def encode_spec(spec: ModelSpec) -> bytes:
    """Return a ModelSpec as canonical JSON bytes (sorted keys), the form that is signed."""
    return msgspec.json.encode(spec, order="deterministic")
