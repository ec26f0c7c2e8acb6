"""Pictures of items: a contact sheet, and what an answer rests on laid over image, window or text.

Attributions are shown from purple (speaks against) over white to orange (speaks for the answer).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from cloud_hub.explain.matplotlib_figure import (
    CYCLE,
    FAINT,
    GREEN,
    INK,
    SMALL_POINTS,
    TITLE_POINTS,
    VERMILLION,
    Picture,
    new_figure,
    picture,
    plain,
    to_png,
)
from shared.model.postprocess import Boxes
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput

COLUMNS = 5
SHEET_ITEMS_MAX = 25
TRACES_MAX = 4  # Channels of a window that are drawn
TEXT_CHARS_MAX = 240  # Of a text that is drawn
LINE_CHARS = 30
LINE_INCHES = 0.16
STRONGEST = 1.5  # The ends of HEAT are too dark to see anything in them
HEAT = "PuOr_r"  # Diverging, told apart by people who see colours differently

Array = NDArray[np.generic]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shown:
    """One item to be drawn, with what is true and what was said."""

    item: Array  # As Arrays.items has it
    label: str
    answer: str
    is_right: bool
    true: Boxes | None = None  # In shares of the model's input
    found: Boxes | None = None


def draw_sheet(shown: Sequence[Shown], spec: ModelSpec, *, file: str, title: str) -> Picture:
    """Return items beside each other, each with its label and answer."""
    items = shown[:SHEET_ITEMS_MAX]
    if any(one.true is not None for one in items):
        title += " (solid: true, dashed: found)"
    columns = 2 if isinstance(spec.input, TextInput) else COLUMNS
    rows = -(-len(items) // columns)
    height = 1.25 if columns == COLUMNS else 0.4 + _text_inches(items)
    figure = new_figure(height_inches=0.4 + height * rows)
    figure.suptitle(title, fontsize=TITLE_POINTS, x=0.01, ha="left", color=INK)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for one, axes in zip(items, grid.flat, strict=False):
        draw_item(axes, one.item, spec)
        _draw_boxes(axes, one, spec)
        chars = 16 if columns == COLUMNS else 36
        told = f"{plain(one.answer, chars)}"
        if not one.is_right:
            told += f"\ntrue: {plain(one.label, chars - 2)}"
        axes.set_title(told, fontsize=6.5, color=INK if one.is_right else VERMILLION, pad=2.0)
    alt = f"{title}: " + "; ".join(f"{one.label} called {one.answer}" for one in items[:8])
    return picture(figure, file=file, title=title, alt=alt)


def draw_saliency_sheet(
    rows: Sequence[tuple[Shown, Floats | None, Floats]], spec: ModelSpec
) -> Picture:
    """Return items with gradients and occlusion beside each other, one item a row."""
    methods = ("item", "gradients", "occlusion")
    columns = [0, 1, 2] if any(gradient is not None for _, gradient, _ in rows) else [0, 2]
    is_text = isinstance(spec.input, TextInput)
    height = 0.35 + _text_inches([one for one, *_ in rows]) if is_text else 1.55
    figure = new_figure(height_inches=0.5 + height * len(rows))
    title = "What answers rest on: orange for, purple against"
    figure.suptitle(title, fontsize=TITLE_POINTS, x=0.01, ha="left", color=INK)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (one, gradient, hidden) in zip(grid, rows, strict=True):
        for axes, column in zip(line, columns, strict=True):
            axes.set_axis_off()
            attribution = (None, gradient, hidden)[column]
            draw_item(axes, one.item, spec, attribution=attribution)
            told = methods[column]
            if column == 0:
                told = plain(one.answer, 22)
                told += "" if one.is_right else f"\ntrue: {plain(one.label, 18)}"
            is_wrong = column == 0 and not one.is_right
            axes.set_title(told, fontsize=SMALL_POINTS, color=VERMILLION if is_wrong else INK)
    alt = f"{title}. {len(rows)} items: the item, integrated gradients, occlusion."
    return picture(figure, file="saliency.png", title="What answers rest on", alt=alt)


def saliency_png(item: Array, attribution: Floats, spec: ModelSpec) -> bytes:
    """Return one item with what an answer rests on laid over it, as PNG."""
    is_image = isinstance(spec.input, ImageInput)
    is_text = isinstance(spec.input, TextInput)
    height = 2.4 if is_image else 0.1 + _lines(item) * LINE_INCHES if is_text else 1.6
    figure = new_figure(width_inches=2.4, height_inches=height)
    axes = figure.add_subplot()
    axes.set_axis_off()
    draw_item(axes, item, spec, attribution=attribution)
    return to_png(figure)


def draw_item(
    axes: Axes, item: Array, spec: ModelSpec, *, attribution: Floats | None = None
) -> None:
    """Draw one item, shaded by what an answer rests on if that is given."""
    match spec.input:
        case ImageInput():
            _draw_image(axes, item, attribution)
        case WindowInput():
            _draw_window(axes, item.astype(np.float32, copy=False), attribution)
        case TextInput():
            _draw_text(axes, item, attribution)


def _draw_image(axes: Axes, pixels: Array, attribution: Floats | None) -> None:
    colours = pixels[:, :, ::-1].astype(np.float32) / 255.0  # BGR (H, W, 3) as RGB
    if attribution is None:
        axes.imshow(colours, interpolation="nearest")
        return
    gray = colours.mean(axis=2)
    axes.imshow(gray, cmap="gray", vmin=-0.6, vmax=1.4, interpolation="nearest")
    limit = _limit(attribution)
    strength = np.clip(STRONGEST * np.abs(attribution) / limit, 0.0, 1.0)
    axes.imshow(
        attribution,
        cmap=HEAT,
        vmin=-limit,
        vmax=limit,
        alpha=0.85 * np.sqrt(strength),
        interpolation="nearest",
    )


def _draw_window(axes: Axes, samples: Floats, attribution: Floats | None) -> None:
    """Draw traces below each other: the channels that count most, or the first ones."""
    count = min(TRACES_MAX, samples.shape[1])
    channels = np.arange(count)
    if attribution is not None:
        most = np.argsort(-np.abs(attribution).max(axis=0), kind="stable")[:count]
        channels = np.sort(most)
    length = samples.shape[0]
    for row, channel in enumerate(channels):
        values = samples[:, channel]
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) / (high - low) if high > low else np.full(length, 0.5)
        floor = float(count - 1 - row)
        if attribution is not None:
            limit = _limit(attribution)
            axes.imshow(
                attribution[None, :, channel],
                cmap=HEAT,
                vmin=-limit,
                vmax=limit,
                alpha=0.9,
                aspect="auto",
                interpolation="nearest",
                extent=(-0.5, length - 0.5, floor, floor + 0.95),
            )
        colour = INK if attribution is not None else CYCLE[row % len(CYCLE)]
        axes.plot(np.arange(length), floor + 0.05 + 0.85 * scaled, color=colour, linewidth=0.8)
        if samples.shape[1] > 1:
            axes.text(
                -0.02 * length,
                floor + 0.45,
                str(channel),
                fontsize=5.5,
                ha="right",
                va="center",
                color=FAINT,
            )
    axes.set_xlim(-0.5, length - 0.5)
    axes.set_ylim(-0.02, count)


def _draw_text(axes: Axes, tokens: Array, attribution: Floats | None) -> None:
    """Draw a text's letters in lines, each shaded by what its bytes say."""
    data = bytes(int(token) - 1 for token in tokens[:TEXT_CHARS_MAX] if int(token) > 0)
    # Byte by byte, so that a letter stands where its attribution does.
    letters = [chr(byte) if 32 <= byte < 127 else "·" for byte in data]
    lines = -(-TEXT_CHARS_MAX // LINE_CHARS)
    heat = np.zeros((lines, LINE_CHARS), np.float32)
    if attribution is not None:
        heat.flat[: len(letters)] = attribution[: len(letters)]
    limit = _limit(heat)
    axes.imshow(
        heat,
        cmap=HEAT,
        norm=Normalize(-limit, limit),
        aspect="auto",
        interpolation="nearest",
        alpha=0.9 if attribution is not None else 0.0,
    )
    for place, letter in enumerate(letters):
        row, column = divmod(place, LINE_CHARS)
        axes.text(
            column,
            row,
            plain(letter),
            fontsize=5.5,
            ha="center",
            va="center",
            color=INK,
            family="DejaVu Sans Mono",
        )
    axes.set_ylim(_lines(tokens) - 0.5, -0.5)


def _lines(tokens: Array) -> int:
    """Return in how many lines a text is drawn."""
    letters = int((tokens[:TEXT_CHARS_MAX].astype(np.int64) > 0).sum())
    return max(1, -(-letters // LINE_CHARS))


def _text_inches(shown: Sequence[Shown]) -> float:
    return LINE_INCHES * max(_lines(one.item) for one in shown)


def _draw_boxes(axes: Axes, one: Shown, spec: ModelSpec) -> None:
    if not isinstance(spec.input, ImageInput):
        return
    size = np.array([spec.input.width, spec.input.height] * 2, np.float32)
    for boxes, colour, dashes in ((one.true, GREEN, "-"), (one.found, VERMILLION, "--")):
        for left, top, right, bottom in (boxes.corners * size - 0.5) if boxes else ():
            xs, ys = [left, right, right, left, left], [top, top, bottom, bottom, top]
            axes.plot(xs, ys, color=colour, linewidth=1.0, linestyle=dashes)


def _limit(attribution: Floats) -> float:
    """Return the strength that has the full colour: single pixels do not drown the rest."""
    return max(STRONGEST * float(np.quantile(np.abs(attribution), 0.995)), 1e-9)
