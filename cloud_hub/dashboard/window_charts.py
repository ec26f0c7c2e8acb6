"""Windows of sensors as small SVG pictures, made on the hub. Pure, and without numpy.

A picture is a document of its own, fetched only when its place on the page is seen; so its colours
are ones that stand out on light and on dark ground.
"""

import math
import sys
from array import array
from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 160.0, 96.0, 5.0
POINTS_MAX = 120
CHANNELS_MAX = 4  # More lines than that are a tangle
STROKES = ("#0d8f98", "#c07a12", "#8460d0", "#d0483e")


def window_svg(data: bytes, shape: tuple[int, ...]) -> str:
    """Return a window's first channels as lines below each other, each over its own range.

    Args:
        data: float32 (T, C), little-endian.
        shape: (T, C).
    """
    channels = _channels(data, shape)
    height = HEIGHT / max(1, len(channels))
    lines = "".join(
        f'<polyline points="{_points(values, top=number * height, height=height)}" fill="none" '
        f'stroke="{stroke}" stroke-width="1.5" stroke-linejoin="round"/>'
        for number, (stroke, values) in enumerate(zip(STROKES, channels, strict=False))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{HEIGHT:g}" '
        f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}">{lines}</svg>'
    )


def _channels(data: bytes, shape: tuple[int, ...]) -> list[Sequence[float]]:
    rows, channels = shape
    samples = array("f", data[: 4 * rows * channels])
    if sys.byteorder == "big":
        samples.byteswap()
    step = max(1, rows // POINTS_MAX)
    return [samples[channel :: channels * step] for channel in range(min(channels, CHANNELS_MAX))]


def _points(values: Sequence[float], *, top: float, height: float) -> str:
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    span = (high - low) or 1.0
    x_step = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    bottom, usable = top + height - MARGIN, height - 2 * MARGIN
    return " ".join(
        f"{MARGIN + index * x_step:.1f},{bottom - usable * _share(value, low, span):.1f}"
        for index, value in enumerate(values)
        if math.isfinite(value)
    )


def _share(value: float, low: float, span: float) -> float:
    return (value - low) / span if span > 0.0 and math.isfinite(span) else 0.5
