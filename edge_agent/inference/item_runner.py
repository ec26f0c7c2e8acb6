"""ItemRunner: one session on one item after another, its buffers allocated once.

What must not live here: which session, what becomes of the result.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.conclude import Conclusion, conclude
from edge_agent.decisions.settings import DecisionSettings
from edge_agent.inference.session import ModelSession
from edge_agent.sources.item import Frame, Item, Window
from shared.clock import Clock
from shared.errors import RefusedError
from shared.model.opencv_resize import FrameResizer
from shared.model.preprocess import Placement, to_tensor
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput
from shared.wire.records import Outcome


@dataclass(frozen=True, slots=True)
class ItemRun:
    """What came of one item, and how long it took."""

    conclusion: Conclusion
    inference_ms: float  # Preprocess, run, postprocess


class ItemRunner:
    """Not shared between threads."""

    def __init__(self, session: ModelSession, settings: DecisionSettings, clock: Clock) -> None:
        """Allocate the buffers that `session` needs."""
        self.session = session
        self._settings = settings
        self._clock = clock
        spec = session.spec
        self._resizer = FrameResizer(spec.input) if isinstance(spec.input, ImageInput) else None
        self._tensor = np.empty(spec.input_shape, dtype=session.input_dtype)

    def run(self, item: Item, *, previous: Outcome | None) -> ItemRun:
        """Return what is concluded from `item`; `previous` is for hysteresis.

        Raises RefusedError `inference.input`, `inference.failed` or `inference.output`.
        """
        started_s = self._clock.monotonic_s()
        pixels_or_samples, placement = self._prepare(item)
        spec = self.session.spec
        batch = to_tensor(pixels_or_samples, spec, dtype=self.session.input_dtype, out=self._tensor)
        conclusion = conclude(
            self.session.run(batch),
            spec,
            self._settings,
            batch=batch,
            placement=placement,
            previous=previous,
        )
        return ItemRun(conclusion, (self._clock.monotonic_s() - started_s) * 1000.0)

    def _prepare(self, item: Item) -> tuple[NDArray[np.generic], Placement | None]:
        match item:
            case Frame(pixels=pixels) if self._resizer is not None:
                return self._resizer.resize(pixels)
            case Window(samples=samples) if isinstance(self.session.spec.input, WindowInput):
                return samples, None
        raise RefusedError(
            "inference.input",
            f"The model {self.session.spec.model} takes {_kind(self.session.spec)}; "
            "the source gives others.",
            remedy="Give the pipeline a source of the model's kind.",
        )


def _kind(spec: ModelSpec) -> str:
    match spec.input:
        case ImageInput():
            return "images"
        case WindowInput():
            return "windows of samples"
        case TextInput():
            return "texts, which no source of a device gives"
