"""RunnerPools: the TensorRunners of a pipeline's sessions, made when they are needed.

1. A runner belongs to one item, from before it is prepared until after it is concluded: its buffers
   hold what is concluded from.
2. There are never more than items under way, which InOrder limits; the one given back last is used
   first: its memory is still in the processor's cache.
3. Models of the same kind of input share a FrameStage: motion is followed across swaps. A stage
   goes with the last of its models.
"""

import threading
from collections import deque
from collections.abc import Iterable

from edge_agent.inference.active_model import LoadedRelease
from edge_agent.inference.session import ModelSession
from edge_agent.inference.tensor_runner import TensorRunner
from edge_agent.sources.opencv_frames import FrameStage
from shared.model.spec import ImageInput
from shared.pipeline.frames import FrameSettings


class RunnerPool:
    """The runners of one session. Thread-safe."""

    def __init__(self, release: LoadedRelease, stage: FrameStage | None) -> None:
        """Args: stage is of this release's pictures."""
        self.session = release.session
        self._tokenize = release.tokenize
        self._stage = stage
        self._free: deque[TensorRunner] = deque()

    def take(self) -> TensorRunner:
        """Return a runner that nobody else uses. Raises RefusedError `worker.slots`."""
        try:
            return self._free.pop()
        except IndexError:
            return TensorRunner(self.session, self._stage, self._tokenize)

    def give_back(self, runner: TensorRunner) -> None:
        """Say that nothing of what `runner` gave is used any more."""
        self._free.append(runner)


class RunnerPools:
    """See the rules above. Thread-safe."""

    def __init__(self, frames: FrameSettings) -> None:
        """Start with none."""
        self._frames = frames
        self._pools: dict[int, RunnerPool] = {}  # By id of the session that they hold
        self._stages: dict[ImageInput, FrameStage] = {}
        self._lock = threading.Lock()

    @property
    def is_gating(self) -> bool:
        """Whether frames have to be looked at in their order."""
        return self._frames.motion is not None or self._frames.frozen_s > 0.0

    @property
    def is_frozen(self) -> bool:
        """Whether the source's picture does not change any more."""
        with self._lock:
            return any(stage.is_frozen for stage in self._stages.values())

    def ask_again(self) -> None:
        """Have the model asked about the next frame, whether or not anything moves."""
        with self._lock:
            for stage in self._stages.values():
                stage.ask_again()

    def of(self, release: LoadedRelease) -> RunnerPool:
        """Return the runners of the session of `release`."""
        session = release.session
        with self._lock:
            pool = self._pools.get(id(session))
            if pool is None:
                pool = RunnerPool(release, self._stage(session))
                self._pools[id(session)] = pool
            return pool

    def keep_only(self, sessions: Iterable[ModelSession]) -> None:
        """Let go of all other sessions, so that their memory comes back."""
        on = {id(session): session for session in sessions}
        with self._lock:
            gone = self._pools.keys() - on
            for key in gone:
                del self._pools[key]
            if gone:  # What a stage knows of frames that nobody shows it is of no more use
                images = {session.spec.input for session in on.values()}
                for image in self._stages.keys() - images:
                    del self._stages[image]

    def _stage(self, session: ModelSession) -> FrameStage | None:
        image = session.spec.input
        if not isinstance(image, ImageInput):
            return None
        stage = self._stages.get(image)
        if stage is None:
            stage = self._stages[image] = FrameStage(self._frames, image)
        return stage
