"""ItemRunner: items to conclusions on one session, one after another, for who has a single thread.

What a pipeline's lanes do at the same time and in parts (loop.py), a try does in one call.
"""

from dataclasses import dataclass

from edge_agent.decisions.conclude import Conclusion
from edge_agent.decisions.concluder import Concluder
from edge_agent.inference.session import ModelSession
from edge_agent.inference.tensor_runner import TensorRunner
from edge_agent.sources.item import Item, own_time_s
from edge_agent.sources.opencv_frames import FrameStage, Held
from shared.clock import Clock
from shared.model.preprocess import Tokenize, to_bytes
from shared.model.spec import ImageInput
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.frames import FrameSettings


@dataclass(frozen=True, slots=True)
class ItemRun:
    """What came of one item, and how long it took."""

    conclusion: Conclusion
    inference_ms: float  # Preprocess, run, postprocess


class ItemRunner:
    """Not shared between threads."""

    def __init__(
        self,
        session: ModelSession,
        settings: DecisionSettings,
        clock: Clock,
        *,
        tokenize: Tokenize = to_bytes,
    ) -> None:
        """Allocate the buffers that `session` needs; `tokenize` is of a model of texts."""
        self.session = session
        self._clock = clock
        image = session.spec.input
        stage = FrameStage(FrameSettings(), image) if isinstance(image, ImageInput) else None
        self._runner = TensorRunner(session, stage, tokenize)
        self._concluder = Concluder(session.spec, settings)

    def run(self, item: Item) -> ItemRun:
        """Return what is concluded from the next item; from a batch, from its last window.

        Raises RefusedError `inference.input`, `inference.failed` or `inference.output`;
        TransientError `worker.lost`.
        """
        started_s = self._clock.monotonic_s()
        ready = self._runner.prepare(item)
        assert not isinstance(ready, Held), "nothing is gated here"
        conclusions = [
            self._concluder.conclude(
                row.outputs,
                batch=row.batch,
                placement=ready.placement,
                at_s=own_time_s(item),
                sensor=row.sensor,
            )
            for row in self._runner.infer(ready)
        ]
        return ItemRun(conclusions[-1], (self._clock.monotonic_s() - started_s) * 1000.0)
