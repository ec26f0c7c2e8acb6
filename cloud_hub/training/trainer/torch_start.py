"""Start: the weights a run begins with, and which items it learns from and is judged by.

1. Weights that must all fit are refused where one does not. Transfer takes what fits by name and
   shape, never the last layer: classes are other ones. What was taken is said.
2. Items that nobody labelled are trained on only where the method takes them. A reconstruction
   learns from what is normal: items labelled anomalous are judged, not trained on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_hub.datasets.opencv_arrays import Arrays
from cloud_hub.training.trainer.spec import ContrastiveMethod, MaskedMethod, TrainSpec
from shared.errors import ContractError, RefusedError
from shared.model.spec import Decoder, ModelSpec, Task
from shared.model.torch_networks import head_prefix
from shared.model.weights import Weights, decode_weights

TRAIN, VALIDATION, TEST = 0, 1, 2
NAMES_SHOWN = 6
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChosenItems:
    """Indices into a dataset's arrays."""

    train: Indices
    validation: Indices
    test: Indices

    @property
    def counts(self) -> dict[str, int]:
        """Return how many there are, for an Event."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
        }


def choose_items(
    spec: TrainSpec, arrays: Arrays, parts: NDArray[np.int8], *, takes_unlabelled: bool
) -> ChosenItems:
    """Return which items are trained on, choose and judge; see rule 2.

    Raises RefusedError `training.no_items`.
    """
    is_known = _known(spec.model, arrays)
    is_reconstruction = spec.model.output.decoder is Decoder.RECONSTRUCTION
    is_trained = is_known | takes_unlabelled
    if is_reconstruction:
        is_trained &= arrays.labels < 1
    is_judged = is_known | isinstance(spec.method, ContrastiveMethod | MaskedMethod)
    train = np.flatnonzero(is_trained & (parts == TRAIN))
    if spec.data.items_max is not None and len(train) > spec.data.items_max:
        drawn = np.random.default_rng(spec.seed).permutation(train)
        train = np.sort(drawn[: spec.data.items_max])
    if not len(train):
        raise RefusedError(
            "training.no_items",
            "The dataset's training part holds nothing that this method can learn from.",
            remedy="Label items of it, split the dataset anew, or choose a method without labels.",
        )
    return ChosenItems(
        train,
        np.flatnonzero(is_judged & (parts == VALIDATION)),
        np.flatnonzero(is_judged & (parts == TEST)),
    )


def class_counts(spec: ModelSpec, arrays: Arrays, train: Indices) -> Tensor:
    """Return (classes,) labelled items of the training part (detection: boxes)."""
    labels = arrays.labels[train]
    if arrays.boxes is not None:
        found = [arrays.boxes[index] for index in train]
        labels = np.concatenate(
            [np.empty(0, np.int64), *(boxes.classes for boxes in found if boxes is not None)]
        )
    size = max(1, len(spec.output.classes))
    kept = labels[(labels >= 0) & (labels < size)]
    return torch.from_numpy(np.bincount(kept, minlength=size))


def load_start(network: nn.Module, spec: TrainSpec, data: bytes) -> str:
    """Load a run's first weights and return what was done, for people; see rule 1.

    Raises ContractError `weights.invalid` or `weights.misfit`.
    """
    weights = decode_weights(data)
    own = network.state_dict()
    fitting = {
        name: torch.from_numpy(array)
        for name, array in weights.items()
        if name in own and own[name].shape == array.shape
    }
    if not spec.start.is_partial:
        _check_all_fit(own, weights, fitting)
        network.load_state_dict(fitting)
        return f"Goes on from given weights, all {len(own)} arrays."
    head = _head(spec)
    taken = {name: t for name, t in fitting.items() if not (head and name.startswith(head))}
    if not taken:
        raise _misfit("not one array fits this network by name and shape")
    network.load_state_dict(own | taken)
    drawn = [name for name in own if name not in taken]
    shown = ", ".join(drawn[:NAMES_SHOWN]) + (", ..." if len(drawn) > NAMES_SHOWN else "")
    return f"Transfer took {len(taken)} of {len(own)} arrays; drawn anew: {shown or 'none'}."


def _known(spec: ModelSpec, arrays: Arrays) -> NDArray[np.bool_]:
    """Return (N,): whether an item can be judged by."""
    if spec.task is Task.DETECTION and arrays.boxes is not None:
        return np.array([boxes is not None for boxes in arrays.boxes], dtype=bool)
    if spec.output.decoder is Decoder.RECONSTRUCTION:
        return np.ones(len(arrays.labels), dtype=bool)
    known: NDArray[np.bool_] = arrays.labels >= 0
    return known


def _head(spec: TrainSpec) -> str:
    try:
        return head_prefix(spec.network, spec.model)
    except ContractError:  # `network.headless`: nothing hangs on classes
        return ""


def _check_all_fit(own: dict[str, Tensor], weights: Weights, fitting: dict[str, Tensor]) -> None:
    wrong = [n for n in own if n not in fitting] + [n for n in weights if n not in own]
    if wrong:
        shown = ", ".join(repr(name[:80]) for name in wrong[:NAMES_SHOWN])
        raise _misfit(f"{shown} are missing, of another shape, or unknown to it")


def _misfit(text: str) -> ContractError:
    return ContractError(
        "weights.misfit",
        f"The given weights are not this network's: {text}.",
        remedy="Name the network they were trained with, or set start.is_partial for transfer.",
    )
