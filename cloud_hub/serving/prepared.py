"""Prepared: one item as its model takes it."""

from dataclasses import dataclass

from shared.model.preprocess import Array, Placement


@dataclass(frozen=True, slots=True)
class Prepared:
    """Ready to run."""

    tensor: Array  # spec.input_shape
    placement: Placement | None  # Where a picture lies within the input
