"""Facts: the few numbers of an item by which cleaning finds what does not belong. Pure.

Those of pictures need decoding and come from opencv_facts.py; windows and texts are here.
"""

from dataclasses import dataclass

import numpy as np

from cloud_hub.datasets.manifest import ItemKind

CHANNELS_MAX = 16  # Of a window; the channels after these are not looked at for outliers

IMAGE_FACTS = ("brightness", "contrast", "width", "height")
TEXT_FACTS = ("characters", "words", "share of letters")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one item."""

    values: tuple[float, ...]  # As fact_names names them
    look: int | None = None  # Of pictures: 128 bits, of which alike pictures share most
    is_blank: bool = False  # A picture of one colour: its look says nothing
    lows: tuple[float, ...] = ()  # Of windows: each channel's least and greatest value
    highs: tuple[float, ...] = ()


def fact_names(kind: ItemKind, channels: int = 0) -> tuple[str, ...]:
    """Return what the values of Facts are, in their order."""
    match kind:
        case ItemKind.IMAGE:
            return IMAGE_FACTS
        case ItemKind.TEXT:
            return TEXT_FACTS
        case ItemKind.WINDOW:
            seen = range(min(channels, CHANNELS_MAX))
            return tuple(f"channel {index} {word}" for word in ("mean", "spread") for index in seen)


def facts_of_window(data: bytes, shape: tuple[int, ...]) -> Facts | str:
    """Return the facts of float32 (T, C) samples, or why they are no window."""
    if len(shape) != 2 or len(data) != 4 * shape[0] * shape[1] or not data:
        return f"is no window of {' x '.join(map(str, shape))} samples"
    samples = np.frombuffer(data, "<f4").reshape(shape)  # (T, C)
    if not np.isfinite(samples).all():
        return "has values that are missing or infinite"
    seen = samples[:, :CHANNELS_MAX].astype(np.float64)
    values = np.concatenate([seen.mean(axis=0), seen.std(axis=0)])
    return Facts(
        tuple(values.tolist()),
        lows=tuple(samples.min(axis=0).tolist()),
        highs=tuple(samples.max(axis=0).tolist()),
    )


def facts_of_text(data: bytes) -> Facts | str:
    """Return the facts of a message, or why it is none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8"
    if not text.strip():
        return "is empty"
    letters = sum(character.isalpha() for character in text)
    return Facts((float(len(text)), float(len(text.split())), letters / len(text)))
