"""Prepared: one item as its model takes it."""

from dataclasses import dataclass

from shared.model.preprocess import Array, Placement


@dataclass(frozen=True, slots=True)
class Prepared:
    """Ready to run."""

    tensor: Array  # spec.input_shape
    placement: Placement | None  # Where a picture lies within the input
    foretold: Array | None = None  # Of a window: the rows that the model is to foretell

    @property
    def compared_with(self) -> Array:
        """Return what an anomaly model's output is compared with."""
        return self.tensor if self.foretold is None else self.foretold
