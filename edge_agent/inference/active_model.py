"""ActiveModel: the swap point. Which release serves the next item, and which runs beside it.

1. There is one ActiveModel per model name; every pipeline of that model reads it once per item,
   so a swap takes effect between two items and never within one.
2. A swap is one assignment: the new session is loaded and warm before, the old one lives on as
   long as anyone holds it.
3. During a trial the release that does not serve is the companion: it runs on a share of the same
   items, after the serving one has decided, and never acts. What came of both is a Comparison.
4. Comparisons wait in a queue of COMPARISONS_MAX for the updater; past that the oldest go.
"""

import threading
from collections import deque
from dataclasses import dataclass

from edge_agent.inference.session import ModelSession
from shared.model.preprocess import Tokenize, to_bytes

COMPARISONS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """A release that is loaded, warm, and has reproduced its golden outputs."""

    model: str
    version: int
    manifest_digest: str
    precision: str
    session: ModelSession
    tokenize: Tokenize = to_bytes  # Of texts; opened once, every runner uses it


@dataclass(frozen=True, slots=True)
class Comparison:
    """Serving and companion on one item. None stands for a run that failed."""

    serving_version: int
    companion_version: int
    serving_ms: float | None
    companion_ms: float | None
    serving_confidence: float | None
    companion_confidence: float | None
    agrees: bool | None  # None when either failed


@dataclass(frozen=True, slots=True)
class Line:
    """Who is on for the next item; read as one value."""

    serving: LoadedRelease | None
    companion: LoadedRelease | None
    swaps_count: int  # Rises with every swap: how a loop knows that this item is the first after


class ActiveModel:
    """See the rules above. Written by the updater's thread, read by every loop's."""

    def __init__(self, model: str) -> None:
        """Start with nothing serving: pipelines wait."""
        self.model = model
        self._line = Line(serving=None, companion=None, swaps_count=0)
        self._comparisons: deque[Comparison] = deque(maxlen=COMPARISONS_MAX)
        self._served = threading.Event()

    @property
    def line(self) -> Line:
        """Return who is on for the next item."""
        return self._line

    def swap(
        self, serving: LoadedRelease, *, companion: LoadedRelease | None = None
    ) -> LoadedRelease | None:
        """Put `serving` on from the next item, with `companion` beside it; return who was on."""
        before = self._line
        self._comparisons.clear()
        self._line = Line(serving=serving, companion=companion, swaps_count=before.swaps_count + 1)
        self._served.set()
        return before.serving

    def withdraw(self) -> None:
        """Serve nothing: a first release was taken back and there is none before it."""
        before = self._line
        self._served.clear()
        self._line = Line(serving=None, companion=None, swaps_count=before.swaps_count + 1)

    def dismiss_companion(self) -> None:
        """Run nothing beside the serving release any more."""
        line = self._line
        self._line = Line(serving=line.serving, companion=None, swaps_count=line.swaps_count)

    def record(self, comparison: Comparison) -> None:
        """Keep what came of both for the updater."""
        self._comparisons.append(comparison)

    def take_comparisons(self) -> list[Comparison]:
        """Return what came since the last call, oldest first, and forget it."""
        taken = []
        while self._comparisons:
            taken.append(self._comparisons.popleft())
        return taken

    def wait_until_serving(self, seconds: float) -> bool:
        """Wait until some release serves, at most `seconds`; return whether one does."""
        return self._served.wait(seconds)
