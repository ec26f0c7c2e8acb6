"""Pictures of how classes are told apart: confusion, ROC, precision and recall, reliability."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cloud_hub.explain.curves import precision_curve, roc_curve, thinned
from cloud_hub.explain.matplotlib_figure import (
    BLUE,
    CYCLE,
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
    new_figure,
    picture,
    plain,
    plain_all,
    style,
)
from cloud_hub.explain.report import CalibrationBin

MATRIX_CLASSES_MAX = 30  # More are shown as a list of what is confused most
COUNTS_CLASSES_MAX = 15  # Of so many the numbers can be read in the cells
CONFUSIONS_MAX = 20
CURVES_MAX = 6  # As many as CYCLE has colours that are told apart

Floats = NDArray[np.floating]
Table = NDArray[np.int64]


def draw_confusion(table: Table, names: Sequence[str]) -> Picture:
    """Return the confusion matrix as shares of rows, with counts; many classes: the worst cells."""
    title, alt = "Confusion: what each true class was called", _confusion_alt(table, names)
    if len(names) > MATRIX_CLASSES_MAX:
        return _draw_top_confusions(table, names, alt)
    side = min(max(3.4, 1.5 + 0.36 * len(names)), 7.0)
    axes = new_axes(height_inches=side, width_inches=max(4.8, side + 0.6))
    style(axes, has_grid=False)
    axes.grid(visible=False)
    rows = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, rows, out=np.zeros(table.shape), where=rows > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = range(len(names))
    small = SMALL_POINTS if len(names) <= COUNTS_CLASSES_MAX else 5.5
    turned = 0 if len(names) <= 3 else 60
    axes.set_xticks(
        ticks,
        plain_all(names, 14),
        rotation=turned,
        ha="right" if turned else "center",
        rotation_mode="anchor",
        fontsize=small,
    )
    axes.set_yticks(ticks, plain_all(names, 14), fontsize=small)
    if len(names) <= COUNTS_CLASSES_MAX:
        _write_cells(axes, table, shares)
    label(axes, title=title, x="Answer", y="True class")
    bar = figure_of(axes).colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("Share of the true class", fontsize=TEXT_POINTS)
    bar.ax.tick_params(labelsize=SMALL_POINTS)
    return picture(figure_of(axes), file="confusion.png", title=title, alt=alt)


def draw_roc(
    scores: Floats, labels: NDArray[np.int64], names: Sequence[str], chosen: Sequence[int]
) -> Picture | None:
    """Return ROC curves, one against the rest; None where no class can be told from another.

    Args:
        scores: (n, classes).
        labels: (n,) class indices.
        names: of all classes.
        chosen: indices of at most CURVES_MAX classes: the hardest ones.
    """
    found = [
        (names[index], curve)
        for index in chosen
        if (curve := roc_curve(scores[:, index], labels == index)) is not None
    ]
    if not found:
        return None
    found.sort(key=lambda row: row[1].area)
    axes = new_axes(height_inches=4.2)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":", label="chance")
    for (name, curve), colour in zip(found, CYCLE, strict=False):
        points = thinned(curve.false_rates.size)
        axes.plot(
            curve.false_rates[points],
            curve.true_rates[points],
            color=colour,
            linewidth=1.4,
            label=f"{plain(name)}: {curve.area:.3f}",
        )
    title = "ROC" if len(names) <= CURVES_MAX else f"ROC of the {len(found)} hardest classes"
    label(axes, title=f"{title} (area)", x="Share of others called so", y="Share found (recall)")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    legend(axes, place="lower right")
    alt = f"ROC curves; smallest area {found[0][1].area:.3f} for {found[0][0]}."
    return picture(figure_of(axes), file="roc.png", title=title, alt=alt)


def draw_precision_recall(
    scores: Floats, labels: NDArray[np.int64], names: Sequence[str], chosen: Sequence[int]
) -> Picture | None:
    """Return precision over recall. Args and None: as draw_roc."""
    found = [
        (names[index], curve)
        for index in chosen
        if (curve := precision_curve(scores[:, index], labels == index)) is not None
    ]
    if not found:
        return None
    found.sort(key=lambda row: row[1].average)
    axes = new_axes(height_inches=4.2)
    for (name, curve), colour in zip(found, CYCLE, strict=False):
        points = thinned(curve.recalls.size)
        axes.plot(
            curve.recalls[points],
            curve.precisions[points],
            color=colour,
            linewidth=1.4,
            label=f"{plain(name)}: {curve.average:.3f}",
        )
    title = "Precision and recall"
    if len(names) > CURVES_MAX:
        title += f" of the {len(found)} hardest classes"
    label(axes, title=f"{title} (average)", x="Recall", y="Precision")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    legend(axes, place="lower left")
    alt = f"Precision over recall; lowest average {found[0][1].average:.3f} for {found[0][0]}."
    return picture(figure_of(axes), file="precision-recall.png", title=title, alt=alt)


def draw_reliability(
    bins: Sequence[CalibrationBin], *, error: float, temperature: float | None = None
) -> Picture:
    """Return accuracy over confidence, and below it how many items each point rests on."""
    figure = new_figure(height_inches=4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (upper, lower):
        style(axes)
    confidences, accuracies = [b.confidence for b in bins], [b.accuracy for b in bins]
    start = max(0.0, min(confidences + accuracies) - 0.05)
    upper.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":", label="calibrated")
    upper.plot(
        confidences, accuracies, "o-", color=BLUE, markersize=4, linewidth=1.4, label="model"
    )
    upper.vlines(confidences, confidences, accuracies, color=VERMILLION, linewidth=1.0, label="gap")
    upper.set(xlim=(start, 1.01), ylim=(start, 1.02))
    told = f"error {error:.3f}"
    if temperature is not None:
        told += f"; temperature {temperature:.2f} would calibrate"
    label(upper, title=f"Reliability: {told}", x="", y="Accuracy")
    legend(upper, place="upper left")
    counts = [b.count for b in bins]
    lower.vlines(confidences, 0, counts, color=BLUE, linewidth=2.0)
    lower.plot(confidences, counts, "o", color=BLUE, markersize=3)
    lower.set_ylim(0, max(counts) * 1.15)
    lower.set_xlabel("Confidence", fontsize=TEXT_POINTS, color=INK)
    lower.set_ylabel("Items", fontsize=TEXT_POINTS, color=INK)
    title = "Reliability"
    alt = f"Accuracy over confidence in {len(bins)} bins; expected calibration error {error:.3f}."
    return picture(figure, file="reliability.png", title=title, alt=alt)


def top_confusions(table: Table) -> list[tuple[int, int, int]]:
    """Return (true, answer, count) of the most frequent confusions, most first."""
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_MAX]
    rows, columns = np.unravel_index(order, wrong.shape)
    found = [(int(r), int(c), int(wrong[r, c])) for r, c in zip(rows, columns, strict=True)]
    return [row for row in found if row[2]]


def _draw_top_confusions(table: Table, names: Sequence[str], alt: str) -> Picture:
    title = "Most frequent confusions"
    rows = top_confusions(table)[::-1]
    axes = new_axes(height_inches=1.2 + 0.22 * max(3, len(rows)))
    axes.barh(range(len(rows)), [count for *_, count in rows], color=BLUE)
    axes.set_yticks(
        range(len(rows)),
        [f"{plain(names[true], 18)} called {plain(names[said], 18)}" for true, said, _ in rows],
    )
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(axes, title=title, x="Items", y="")
    return picture(figure_of(axes), file="confusion.png", title=title, alt=alt)


def _write_cells(axes: Axes, table: Table, shares: Floats) -> None:
    points = SMALL_POINTS if table.shape[0] <= 10 else 5.5
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            if not table[row, column]:
                continue
            text = str(table[row, column])
            if table.shape[0] <= 6:
                text += f"\n{shares[row, column]:.0%}"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=points,
                color="white" if shares[row, column] > 0.55 else INK,
            )


def _confusion_alt(table: Table, names: Sequence[str]) -> str:
    most = top_confusions(table)[:3]
    if not most:
        return f"Confusion of {len(names)} classes: nothing is confused."
    told = "; ".join(f"{names[t]} called {names[s]} {count} times" for t, s, count in most)
    return f"Confusion of {len(names)} classes. Most often: {told}."
