"""What passes from the lanes of a pipeline to where results leave in order. Values only."""

from dataclasses import dataclass

from edge_agent.decisions.conclude import Conclusion
from edge_agent.inference.active_model import Line, LoadedRelease
from edge_agent.inference.runner_pool import RunnerPool, RunnerPools
from edge_agent.inference.tensor_runner import RawRow, Ready, TensorRunner
from edge_agent.sources.item import Item
from edge_agent.sources.opencv_frames import Held
from shared.errors import RefusedError, TransientError
from shared.model.preprocess import Placement
from shared.pipeline.decisions import DecisionSettings

RunError = RefusedError | TransientError


@dataclass(frozen=True, slots=True)
class Work:
    """One item that was taken, and who decides it."""

    ticket: int
    item: Item
    line: Line
    release: LoadedRelease  # The one that serves
    decisions: DecisionSettings
    pools: RunnerPools
    pool: RunnerPool  # Where `runner` goes back to
    runner: TensorRunner | None  # None: there was no room for its input
    ready: Ready | Held | RunError | None  # None: it is still to be prepared
    taken_s: float
    prepare_ms: float


@dataclass(frozen=True, slots=True)
class RawRun:
    """What a model said of one item."""

    rows: tuple[RawRow, ...]
    placement: Placement | None
    prepare_ms: float
    run_ms: float


@dataclass(frozen=True, slots=True)
class Finished:
    """One item that was run, or was not."""

    work: Work
    run: RawRun | Held | RunError


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a release concluded from one item: a conclusion for each row, and what it took."""

    conclusions: tuple[Conclusion, ...]
    inference_ms: float
