"""Scores: how good a network is on a part, by its task, and the one value that compares epochs.

1. Classes: accuracy (the value), loss, macro F1. A score: error (root mean square; the value is its
   negative), mean absolute error. A reconstruction: loss on normal items, and the area under the
   ROC curve where both kinds are labelled; that, or the negative loss, is the value. Boxes: mean
   average precision (the value) and F1, by shared/model.
2. What an objective measures itself comes first: the value is its negative mean loss.
3. Everything is fp32: it is how the model will be used. Each process goes through its share of the
   items; boxes, which are few, all go through whole.
4. Numbers that are not finite are a run that went to infinity, never a value.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cloud_hub.training.trainer.torch_data import DeviceItems, share_of
from cloud_hub.training.trainer.torch_objective import Objective, Targets
from cloud_hub.training.trainer.torch_processes import Processes
from shared.errors import RefusedError
from shared.model.metrics import confusion, f1_boxes, f1_macro, mean_average_precision, roc_area
from shared.model.postprocess import Boxes, detected_boxes
from shared.model.preprocess import place
from shared.model.spec import Decoder, ImageInput, ModelSpec, Task

BATCH_MAX = 1024
# Whatever is asked of a device, an average precision wants the unsure boxes too.
CONFIDENCE_MIN = 0.01


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of going through a part."""

    metrics: dict[str, float]
    value: float  # Higher is better


@torch.no_grad()
def evaluate(
    network: nn.Module,
    objective: Objective,
    data: DeviceItems,
    chosen: Tensor,
    spec: ModelSpec,
    processes: Processes,
    *,
    batch: int,
) -> Evaluation:
    """Return how good a network is on the items of (n,) indices, at least one.

    It is left in evaluation mode. Raises RefusedError `training.diverged`.
    """
    network.eval()
    batches = _Batches(data, chosen, processes, min(batch, BATCH_MAX))
    own = _own_metrics(network, objective, batches, processes)
    if own is not None:
        found = Evaluation({"loss": own}, -own)
    elif spec.task is Task.DETECTION:
        found = _detection(network, objective, data, chosen, spec, batch=min(batch, BATCH_MAX))
    else:
        found = _by_rows(network, batches, spec, processes)
    if not all(math.isfinite(number) for number in (found.value, *found.metrics.values())):
        raise diverged()
    return found


def diverged() -> RefusedError:
    """Return the error for training that went to infinity."""
    return RefusedError(
        "training.diverged",
        "Training went to infinity.",
        remedy="Lower recipe.learning_rate (and matrix_learning_rate), warm up longer, or set "
        "recipe.gradient_norm_max.",
    )


@dataclass(frozen=True, slots=True)
class _Batches:
    """This process's share of a part, batch by batch."""

    data: DeviceItems
    chosen: Tensor
    processes: Processes
    size: int

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Targets]]:
        """Yield where a batch's rows lie in the part, the items as input, and targets."""
        whole = int(self.chosen.shape[0])
        own = share_of(whole, rank=self.processes.rank, processes=self.processes.count)
        for start in range(own.start, own.stop, self.size):
            rows = slice(start, min(start + self.size, own.stop))
            picked = self.chosen[rows]
            yield rows, self.data.to_input(self.data.items(picked)), self.data.targets(picked)


def _own_metrics(
    network: nn.Module, objective: Objective, batches: _Batches, processes: Processes
) -> float | None:
    """Return the objective's mean loss, or None where the task's own scores count."""
    total = torch.zeros(2, dtype=torch.float64, device=batches.data.device)  # Loss, count
    for _, items, targets in batches:
        found = objective.metrics(network, (items,) * objective.views, targets)
        if found is None:
            return None
        total += torch.stack([found["loss"].double(), found["count"].double()])
    loss, count = processes.summed(total).tolist()
    return float(loss / max(count, 1.0))


def _by_rows(
    network: nn.Module, batches: _Batches, spec: ModelSpec, processes: Processes
) -> Evaluation:
    """Score a task whose items each give a row (label, answer, loss)."""
    count = int(batches.chosen.shape[0])
    table = torch.zeros(count, 3, dtype=torch.float64, device=batches.data.device)
    for rows, items, targets in batches:
        outputs = network(items).float()
        table[rows] = _rows(outputs, items, targets.labels, spec.output.decoder).double()
    values = processes.summed(table).cpu().numpy()  # Others' rows are 0 in ours
    match spec.output.decoder:
        case Decoder.RECONSTRUCTION:
            return _reconstruction(values)
        case Decoder.SCORE:
            return _score(values)
        case _:
            return _classes(values, len(spec.output.classes))


def _rows(outputs: Tensor, items: Tensor, labels: Tensor, decoder: Decoder) -> Tensor:
    """Return (B, 3): label, answer, loss."""
    match decoder:
        case Decoder.RECONSTRUCTION:
            losses = (outputs - items).square().flatten(1).mean(1)  # (B,)
            answers = losses
        case Decoder.SCORE:
            answers = outputs.flatten(1)[:, 0]
            losses = (answers - labels).square()
        case _:
            logits = outputs.flatten(1)  # (B, classes)
            if decoder is Decoder.PROBABILITIES:
                logits = logits.clamp(min=1e-12).log()
            answers = logits.argmax(1)
            losses = functional.cross_entropy(logits, labels, reduction="none", ignore_index=-1)
    return torch.stack([labels.float(), answers.float(), losses], 1)


def _classes(table: NDArray[np.float64], classes_count: int) -> Evaluation:
    known = table[table[:, 0] >= 0]
    true, answers = known[:, 0].astype(np.int64), known[:, 1].astype(np.int64)
    accuracy = float(np.mean(true == answers))
    f1 = f1_macro(confusion(answers, true, classes_count=classes_count))
    return Evaluation(
        {"accuracy": accuracy, "loss": float(known[:, 2].mean()), "f1_macro": f1}, accuracy
    )


def _score(table: NDArray[np.float64]) -> Evaluation:
    known = table[table[:, 0] >= 0]
    error = float(np.sqrt(known[:, 2].mean()))
    absolute = float(np.abs(known[:, 0] - known[:, 1]).mean())
    return Evaluation(
        {"loss": float(known[:, 2].mean()), "error": error, "error_absolute": absolute}, -error
    )


def _reconstruction(table: NDArray[np.float64]) -> Evaluation:
    labels, errors = table[:, 0], table[:, 2]
    normal = errors[labels < 1]
    metrics = {"loss": float(normal.mean()) if normal.size else float(errors.mean())}
    is_labelled = labels >= 0
    is_anomalous = labels[is_labelled] >= 1
    if not (is_anomalous.any() and not is_anomalous.all()):
        return Evaluation(metrics, -metrics["loss"])
    metrics["roc_area"] = roc_area(errors[is_labelled], is_anomalous)
    return Evaluation(metrics, metrics["roc_area"])


def _detection(
    network: nn.Module,
    objective: Objective,
    data: DeviceItems,
    chosen: Tensor,
    spec: ModelSpec,
    *,
    batch: int,
) -> Evaluation:
    assert isinstance(spec.input, ImageInput)
    whole = place(spec.input.width, spec.input.height, spec.input)
    found: list[Boxes] = []
    true: list[Boxes] = []
    loss = 0.0
    for start in range(0, len(chosen), batch):
        picked = chosen[start : start + batch]
        items, targets = data.to_input(data.items(picked)), data.targets(picked)
        loss += float(objective.loss(network, (items,), targets, epoch=0.0)) * len(picked)
        outputs = network(items)
        arrays = [o.float().cpu().numpy() for o in _as_tuple(outputs)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise diverged()
        for index in range(len(picked)):
            one = tuple(array[index : index + 1] for array in arrays)
            found.append(detected_boxes(one, spec, placement=whole, confidence_min=CONFIDENCE_MIN))
        assert targets.boxes is not None
        true += [_boxes(rows) for rows in targets.boxes.cpu().numpy()]
    sure = [_above(boxes, spec.output.confidence_min) for boxes in found]
    metrics = {
        "map": mean_average_precision(found, true, classes_count=len(spec.output.classes)),
        "f1": f1_boxes(sure, true),
        "loss": loss / int(chosen.shape[0]),
    }
    return Evaluation(metrics, metrics["map"])


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _boxes(rows: NDArray[np.float32]) -> Boxes:
    """Return (M, 5) rows of Targets.boxes as Boxes."""
    kept = rows[rows[:, 0] >= 0]
    return Boxes(kept[:, 1:], np.ones(len(kept), np.float32), kept[:, 0].astype(np.int64))


def _above(boxes: Boxes, confidence_min: float) -> Boxes:
    kept = boxes.scores >= confidence_min
    return Boxes(boxes.corners[kept], boxes.scores[kept], boxes.classes[kept])
