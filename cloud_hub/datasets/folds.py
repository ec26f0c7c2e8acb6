"""Folds: each item's part as a number, and K-fold within what may be trained on. Pure.

1. The test part never moves: no fold trains on it, no fold chooses by it.
2. Training and validation parts are dealt anew into K folds of about one size and the same share of
   classes; what the split kept together stays together (splits.py, rule 1).
3. Every item of them is in the validation part of exactly one fold.
"""

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import Manifest, Part
from cloud_hub.datasets.splits import by_of, deal, lots_of
from shared.errors import ContractError

NUMBERS = MappingProxyType({Part.TRAIN: 0, Part.VALIDATION: 1, Part.TEST: 2})


def parts_of(
    manifest: Manifest, *, folds_count: int | None = None, fold: int = 0, seed: int = 0
) -> NDArray[np.int8]:
    """Return each item's part, (N,): 0 trains, 1 chooses, 2 judges.

    Args:
        manifest: of the version.
        folds_count: how many folds, from 2; None: the parts as they are in the manifest.
        fold: which of them is the validation part, from 0.
        seed: how items are dealt into folds.

    Raises ContractError `dataset.folds` where there are fewer lots of items than folds.
    """
    parts = np.array([NUMBERS[item.part] for item in manifest.items], dtype=np.int8)  # (N,)
    if folds_count is None:
        return parts
    if folds_count < 2 or not 0 <= fold < folds_count:
        raise ContractError("dataset.folds", f"There is no fold {fold} of {folds_count}.")
    chosen = np.flatnonzero(parts != NUMBERS[Part.TEST])
    items = [manifest.items[index] for index in chosen]
    lots = lots_of(items, by_of(manifest.split_rule))
    if len(lots) < folds_count:
        raise ContractError(
            "dataset.folds",
            f"What belongs together makes {len(lots)} lots, too few for {folds_count} folds.",
            remedy="Ask for fewer folds.",
        )
    dealt = deal(items, lots, (1.0 / folds_count,) * folds_count, seed=seed)
    parts[chosen] = NUMBERS[Part.TRAIN]
    for lot, number in zip(lots, dealt, strict=True):
        if number == fold:
            parts[chosen[lot]] = NUMBERS[Part.VALIDATION]
    return parts
