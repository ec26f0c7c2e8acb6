"""Pictures of scores: slices with intervals, anomaly scores, numbers, boxes, learning curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from cloud_hub.explain.curves import thinned
from cloud_hub.explain.matplotlib_figure import (
    BLUE,
    FAINT,
    INK,
    SMALL_POINTS,
    TEXT_POINTS,
    VERMILLION,
    Picture,
    figure_of,
    label,
    legend,
    new_axes,
    picture,
    plain,
    style,
)
from cloud_hub.explain.report import SliceScores

SLICES_DRAWN_MAX = 40
POINTS_DRAWN_MAX = 4000  # Of a cloud of points
HISTOGRAM_BINS = 40

Floats = NDArray[np.floating]
Pairs = Sequence[tuple[float, float]]


def draw_slices(slices: Sequence[SliceScores], *, whole: float, measure: str) -> Picture:
    """Return every slice's share with its interval: the lowest ones if there are many."""
    shown = sorted(slices, key=lambda one: one.accuracy.value)[:SLICES_DRAWN_MAX]
    order = {by: index for index, by in enumerate(("class", "device", "site", "hour"))}
    shown.sort(key=lambda one: (-order[one.by], one.accuracy.value), reverse=True)
    shown = shown[::-1]
    axes = new_axes(height_inches=1.3 + 0.2 * max(3, len(shown)))
    for row, one in enumerate(shown):
        share, colour = one.accuracy, VERMILLION if one.is_worse else BLUE
        axes.plot([share.low, share.high], [row, row], color=colour, linewidth=1.6)
        axes.plot(share.value, row, "D" if one.is_worse else "o", color=colour, markersize=4)
    axes.axvline(whole, color=FAINT, linewidth=0.9, linestyle="--")
    texts = [f"{one.by}: {plain(one.name, 18)}  ({one.accuracy.count})" for one in shown]
    axes.set_yticks(range(len(shown)), texts)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.grid(visible=False, axis="y")
    lowest, highest = axes.get_xlim()
    decimals = 0 if highest - lowest > 0.1 else 1
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
    title = f"{measure} by slice, 95 % intervals"
    more = f" ({SLICES_DRAWN_MAX} lowest of {len(slices)})" if len(slices) > len(shown) else ""
    x = f"{measure}; dashed: all items; diamond: worse than these"
    label(axes, title=title + more, x=x, y="")
    worse = [f"{one.by} {one.name}" for one in slices if one.is_worse]
    alt = f"{measure} of {len(slices)} slices. "
    alt += f"Worse than the whole: {', '.join(worse)}." if worse else "None is clearly worse."
    return picture(figure_of(axes), file="slices.png", title=title, alt=alt)


def draw_anomaly_scores(
    scores: Floats, is_anomalous: NDArray[np.bool_], *, threshold: float
) -> Picture:
    """Return histograms of the scores of normal and of anomalous items, (n,) each."""
    axes = new_axes()
    low, high = float(scores.min()), float(np.quantile(scores, 0.995))
    high = max(high, threshold, low + 1e-6)
    edges = np.linspace(min(low, threshold), high + (high - low) * 0.02, HISTOGRAM_BINS + 1)
    inside = np.minimum(scores, edges[-1])  # The few beyond are counted in the last bar
    kinds = (("normal", ~is_anomalous, BLUE, None), ("anomalous", is_anomalous, VERMILLION, "//"))
    for name, chosen, colour, hatch in kinds:
        if not chosen.any():
            continue
        count = int(chosen.sum())
        axes.hist(
            inside[chosen],
            bins=edges.tolist(),
            weights=np.full(count, 1.0 / count),
            color=colour,
            alpha=0.55,
            label=f"{name} ({count})",
            hatch=hatch,
            edgecolor=colour,
            linewidth=0.3,
        )
    axes.axvline(threshold, color=INK, linewidth=1.1, linestyle="--", label="threshold")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    title = "Anomaly scores"
    label(axes, title=title, x="Score", y="Share of the kind's items")
    legend(axes)
    missed = int((is_anomalous & (scores <= threshold)).sum())
    false = int((~is_anomalous & (scores > threshold)).sum())
    alt = f"Scores of normal and anomalous items: {missed} missed, {false} false at {threshold:g}."
    return picture(figure_of(axes), file="scores.png", title=title, alt=alt)


def draw_numbers(answers: Floats, true: Floats, *, tolerance: float, rmse: float) -> Picture:
    """Return answers over true numbers, (n,) each; the band is what is within the tolerance."""
    axes = new_axes(height_inches=4.2)
    points = thinned(true.size, points_max=POINTS_DRAWN_MAX)
    room = max(float(true.max() - true.min()) * 0.05, tolerance)
    ends = np.array([float(true.min()) - room, float(true.max()) + room])
    axes.fill_between(
        ends,
        ends - tolerance,
        ends + tolerance,
        color=BLUE,
        alpha=0.12,
        linewidth=0,
        label=f"within {tolerance:g}",
    )
    axes.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle="--", label="right")
    size = 12.0 if true.size < 500 else 5.0
    axes.scatter(true[points], answers[points], s=size, color=BLUE, alpha=0.5, linewidths=0)
    title = "Answers over true numbers"
    label(axes, title=f"{title} (rmse {rmse:.3g})", x="True number", y="Answer")
    axes.set_xlim(*ends)
    legend(axes, place="upper left")
    alt = f"Answers over true numbers of {true.size} items; root mean squared error {rmse:.3g}."
    return picture(figure_of(axes), file="numbers.png", title=title, alt=alt)


def draw_f1_by_confidence(pairs: Pairs, *, confidence_min: float) -> Picture:
    """Return the F1 of boxes over the confidence from which on they count."""
    axes = new_axes()
    axes.plot([c for c, _ in pairs], [f1 for _, f1 in pairs], "o-", color=BLUE, markersize=3)
    best = max(pairs, key=lambda row: row[1])
    axes.plot(*best, "D", color=VERMILLION, markersize=6, label=f"best {best[1]:.3f}")
    axes.axvline(confidence_min, color=INK, linewidth=1.0, linestyle="--", label="used")
    axes.set_ylim(-0.01, 1.02)
    title = "F1 of boxes by confidence"
    label(axes, title=title, x="Lowest confidence that counts", y="F1")
    legend(axes)
    alt = f"F1 of boxes by confidence: best {best[1]:.3f} at {best[0]:.2f}."
    return picture(figure_of(axes), file="f1-by-confidence.png", title=title, alt=alt)


def draw_learning_curve(losses: Pairs, values: Pairs, *, measure: str) -> Picture:
    """Return the training loss and the validation part's value over epochs.

    Args:
        losses: (epoch, mean loss since the last point).
        values: (epoch, value by which epochs are compared, higher is better).
        measure: what the value is: "accuracy".
    """
    axes = new_axes()
    lines = []
    if losses:
        shown = [losses[int(index)] for index in thinned(len(losses))]
        lines += axes.plot(
            [e for e, _ in shown],
            [loss for _, loss in shown],
            color=BLUE,
            linewidth=1.2,
            label="training loss",
        )
    label(axes, title="Learning curve", x="Epoch", y="Loss")
    best = ""
    if values:
        right = axes.twinx()
        style(right, has_grid=False)
        right.spines["right"].set_visible(True)
        right.spines["right"].set_color(FAINT)
        lines += right.plot(
            [e for e, _ in values],
            [value for _, value in values],
            "o--",
            color=VERMILLION,
            linewidth=1.2,
            markersize=3,
            label=f"validation {plain(measure)}",
        )
        right.set_ylabel(f"Validation {plain(measure)}", fontsize=TEXT_POINTS, color=INK)
        top = max(values, key=lambda row: row[1])
        best = f" Best validation {measure}: {top[1]:.4f} at epoch {top[0]:g}."
    if lines:
        axes.legend(
            lines,
            [str(line.get_label()) for line in lines],
            fontsize=SMALL_POINTS,
            loc="center right",
        )
    alt = f"Training loss and validation {measure} over epochs.{best}"
    return picture(figure_of(axes), file="learning.png", title="Learning curve", alt=alt)
