"""EvaluationSet: labelled items by which every Candidate of a model is judged. Hub only."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.ids import ModelName


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What is known of one; its items lie in the object store under the digest."""

    digest: str  # SHA-256 of the file as uploaded
    model: ModelName
    items_count: int
    item_shape: tuple[int, ...]  # (H, W, 3) of frames, (T, C) of windows
    slices: Mapping[str, int]  # Items by slice; empty where no slices are named
    file_bytes: int
    created_ms: int
