"""DatasetEvaluation: a model's evaluation set from the test part of a dataset version.

1. Only labelled items of the test part: nothing that any training has seen, or chosen by.
2. Slices are devices, or sites where no item says its device; of more than there may be, the
   smallest are one slice.
3. Of a detector an item is labelled where somebody said what boxes are on it, also that none is.
4. Items are decoded at the model's size by a process of its own (opencv_dataset_evaluation.py).
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.candidates.evaluation_set import EvaluationSet
from cloud_hub.candidates.evaluation_sets import EvaluationSets
from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.making import Problem
from cloud_hub.datasets.process_import import raise_problem
from cloud_hub.datasets.service import DatasetService
from cloud_hub.process_limits import START_S, run_to_end, temporary_folder
from shared.errors import RefusedError
from shared.model.spec import ModelSpec
from shared.wire.limits import Digest

PROCESS = "cloud_hub.candidates.opencv_dataset_evaluation"
ORDER = "order.json"
MADE = "made.json"
EVALUATION = "evaluation.npz"
ITEMS_DEFAULT = 10_000
ITEMS_MAX = 100_000
ITEMS_BYTES_MAX = 256 << 20  # Of all items of a set, decoded
MAKING_S_MAX = 600
MAKING_MEMORY_BYTES_MAX = 6 << 30


class EvaluationOrder(msgspec.Struct, frozen=True):
    """What the process is asked for."""

    objects: str
    manifest: Digest
    spec: ModelSpec
    items_max: Annotated[int, Meta(ge=1, le=ITEMS_MAX)]


class EvaluationMade(msgspec.Struct, frozen=True):
    """What came of it: `evaluation.npz`, or a problem."""

    problem: Problem | None = None


class DatasetEvaluation:
    """See the rules above. Safe to share between threads."""

    def __init__(self, datasets: DatasetService, sets: EvaluationSets) -> None:
        self._datasets = datasets
        self._sets = sets

    def set(
        self, version: DatasetVersion, spec: ModelSpec, *, items_max: int = ITEMS_DEFAULT
    ) -> EvaluationSet:
        """Return the evaluation set that candidates of the spec's model are measured on now.

        Args:
            version: whose test part is taken.
            spec: the model's: its name, input and classes.
            items_max: of more items the same ones are drawn every time.

        Raises ContractError `evaluation.empty`, `dataset.kind`, `dataset.shape`
        or `dataset.classes`, IntegrityError `dataset.damaged`, RefusedError
        `evaluation.too_many` or `evaluation.failed`, TransientError.
        """
        order = EvaluationOrder(
            objects=self._datasets.objects_place,
            manifest=version.digest,
            spec=spec,
            items_max=min(items_max, ITEMS_MAX),
        )
        with temporary_folder("isthmus-evaluation-") as folder:
            data = _make(order, folder)
        return self._sets.add(spec.model, data)


def _make(order: EvaluationOrder, folder: Path) -> bytes:
    (folder / ORDER).write_bytes(msgspec.json.encode(order))
    crash = run_to_end(PROCESS, folder, seconds_max=MAKING_S_MAX + START_S)
    if crash:
        raise RefusedError(
            "evaluation.failed",
            f"Making the evaluation set failed: {crash}.",
            remedy="Ask for fewer items.",
        )
    made = msgspec.json.decode((folder / MADE).read_bytes(), type=EvaluationMade)
    if made.problem is not None:
        raise_problem(made.problem)
    return (folder / EVALUATION).read_bytes()
