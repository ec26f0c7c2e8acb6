"""Scores of classes: precision, recall, F1, ROC area and average precision of each. Pure numpy.

1. Precision and recall are shares with intervals; what has no item behind it is None.
2. Means over classes ("macro") count every class that occurs once, however many items it has.
3. Of more than CLASSES_SHOWN_MAX classes those with the most items are shown, in their own order.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.curves import area_under_roc, average_precision
from cloud_hub.explain.intervals import share_of
from cloud_hub.explain.report import CLASSES_SHOWN_MAX, ClassScores, Interval
from shared.model.metrics import accuracy, f1_macro

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]
TOP = 5  # Of "the right class is among the five best": where there are more classes than that


def shown_classes(labels: Indices, *, classes_count: int) -> Indices:
    """Return the indices of the classes that a report shows; see rule 3."""
    if classes_count <= CLASSES_SHOWN_MAX:
        return np.arange(classes_count)
    support = np.bincount(labels, minlength=classes_count)
    most = np.argsort(-support, kind="stable")[:CLASSES_SHOWN_MAX]
    return np.sort(most)


def class_scores(
    table: NDArray[np.int64],
    probabilities: Floats,
    labels: Indices,
    names: Sequence[str],
    shown: Indices,
) -> tuple[ClassScores, ...]:
    """Return the scores of each shown class.

    Args:
        table: (classes, classes) confusion; row: true class, column: answer.
        probabilities: (n, classes).
        labels: (n,) true class indices.
        names: of all classes.
        shown: indices of the classes wanted.
    """
    return tuple(
        one_class(table, int(index), names[index], probabilities[:, index], labels == index)
        for index in shown
    )


def one_class(
    table: NDArray[np.int64], index: int, name: str, scores: Floats, is_of_class: NDArray[np.bool_]
) -> ClassScores:
    """Return one class's scores, one against the rest; see rule 1."""
    right = int(table[index, index])
    support, said = int(table[index].sum()), int(table[:, index].sum())
    return ClassScores(
        name=name,
        support=support,
        precision=share_of(right, said),
        recall=share_of(right, support),
        f1=2.0 * right / (support + said) if support else None,
        roc_area=area_under_roc(scores, is_of_class),
        average_precision=average_precision(scores, is_of_class),
    )


def class_metrics(
    table: NDArray[np.int64],
    probabilities: Floats,
    labels: Indices,
    per_class: Sequence[ClassScores],
) -> dict[str, float]:
    """Return what one number says of all classes; see rule 2. Empty where there is no item."""
    if not labels.size:
        return {}
    answers = probabilities.argmax(axis=1)
    losses = log_losses(probabilities, labels)
    found: dict[str, float | None] = {
        "accuracy": accuracy(answers, labels),
        "f1_macro": f1_macro(table),
        "precision_macro": _mean_share(scores.precision for scores in per_class if scores.support),
        "recall_macro": _mean_share(scores.recall for scores in per_class if scores.support),
        "roc_area": _mean(scores.roc_area for scores in per_class),
        "average_precision": _mean(scores.average_precision for scores in per_class),
        "log_loss": float(losses.mean()),
        "brier": _brier(probabilities, labels),
    }
    if probabilities.shape[1] > TOP:
        best = np.argpartition(-probabilities, TOP, axis=1)[:, :TOP]
        found[f"top{TOP}_accuracy"] = float((best == labels[:, None]).any(axis=1).mean())
    return {name: value for name, value in found.items() if value is not None}


def log_losses(probabilities: Floats, labels: Indices) -> NDArray[np.float64]:
    """Return each item's -log of its true class's probability, (n,); at most about 69."""
    of_true = probabilities[np.arange(labels.size), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(np.maximum(of_true, 1e-30))
    return losses


def _mean_share(shares: Iterable[Interval | None]) -> float | None:
    """Return the mean of shares; one of nothing said counts 0, as F1 has it."""
    return _mean(0.0 if share is None else share.value for share in shares)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _brier(probabilities: Floats, labels: Indices) -> float:
    """Return the mean squared distance to the truth (Brier 1950), summed over classes."""
    squares = np.square(probabilities.astype(np.float64)).sum(axis=1)
    of_true = probabilities[np.arange(labels.size), labels].astype(np.float64)
    return float(np.mean(squares - 2.0 * of_true + 1.0))
