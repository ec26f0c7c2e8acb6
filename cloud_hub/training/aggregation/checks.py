"""Checks of updates: how large one may be and how much it may weigh. Pure.

1. A number that is not finite never counts (`update.not_finite`).
2. Norm, absolute: with `norm_max`, or the clip of central privacy, nothing else is asked. Under
   central privacy what is larger is scaled down and not refused, and there is no relative bound:
   whether one device counts must not hang on what another one sent.
3. Norm, relative: at most `norm_ratio_max` times the median of known norms. Known are the newest
   NORMS_KEPT_MAX accepted in earlier Rounds; if there are NORMS_NEEDED of them, the bound stands
   for the whole Round.
4. With fewer, this Round's own norms are known too. Until NORMS_NEEDED are known, updates are
   held; from then on one within the bound is accepted, and one above it stays held (at most
   HELD_MAX, further ones are refused), for the median moves as others come: the first to answer
   may be those with the fewest samples. When the Round closes the median of all decides. So one
   liar among four never sets the bound: the median of three has an honest norm on either side
   of it or is one.
5. With fewer than NORMS_NEEDED known even then, no relative bound can tell who lies: all count.
   Whoever runs Jobs of two devices sets `norm_max`.
6. An update of norm 0 is accepted and not known: it does no harm and says nothing.
7. Weight: the samples a device says it has, at most `samples_max`; less than one is refused. What
   its owner does not tell counts as `samples_unknown`. The share of a Round is in shares.py.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np

from cloud_hub.training.aggregation.entry import Standing
from cloud_hub.training.order import CentralPrivacy, CheckSettings
from shared.errors import ContractError, RefusedError
from shared.model.weights import Array

NORMS_NEEDED = 3
NORMS_KEPT_MAX = 256
HELD_MAX = 16
_STATE_KEY = "checks.norms"


class UpdateChecks:
    """The checks of one Job; what they know is the norms of its closed Rounds."""

    def __init__(
        self,
        settings: CheckSettings,
        *,
        privacy: CentralPrivacy | None = None,
        samples_unknown: int = 1,
    ) -> None:
        self.settings = settings
        self.clip_norm = privacy.clip_norm if privacy is not None else None
        self._samples_unknown = samples_unknown
        self._norms: deque[float] = deque(maxlen=NORMS_KEPT_MAX)

    @property
    def norms(self) -> tuple[float, ...]:
        """Return the norms known from closed Rounds, oldest first."""
        return tuple(self._norms)

    @property
    def norm_max(self) -> float | None:
        """Return the absolute bound; None where the bound is relative."""
        return self.clip_norm if self.clip_norm is not None else self.settings.norm_max

    def weight(self, samples_count: int | None) -> float:
        """Return an update's weight. Raises RefusedError `update.samples`."""
        count = self._samples_unknown if samples_count is None else samples_count
        if count < 1:
            raise RefusedError("update.samples", f"It says it comes of {count} samples.")
        return float(min(count, self.settings.samples_max))

    def remember(self, norms: Iterable[float]) -> None:
        """Know what a closed Round accepted."""
        self._norms.extend(norm for norm in norms if norm > 0.0)

    def state(self) -> dict[str, Array]:
        """Return all that a resumed Job needs, as arrays to put into one .npz."""
        return {_STATE_KEY: np.array(self._norms, np.float64)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take up a state; other names in it are ignored. Raises ContractError `checks.misfit`."""
        norms = state.get(_STATE_KEY)
        if norms is None or norms.dtype != np.float64 or norms.ndim != 1:
            raise ContractError("checks.misfit", "The state holds no norms.")
        self._norms = deque(norms.tolist(), maxlen=NORMS_KEPT_MAX)


class RoundNorms:
    """The norms of one Round. The same norms in the same order give the same answers."""

    def __init__(self, checks: UpdateChecks) -> None:
        self._ratio = checks.settings.norm_ratio_max
        self._known = list(checks.norms)
        self._held: dict[int, float] = {}
        self._fixed = checks.norm_max
        if self._fixed is None and len(self._known) >= NORMS_NEEDED:
            self._fixed = self._ratio * statistics.median(self._known)

    @property
    def bound(self) -> float | None:
        """Return what a norm may be now; None while nothing can be said."""
        if self._fixed is not None:
            return self._fixed
        if len(self._known) < NORMS_NEEDED:
            return None
        return self._ratio * statistics.median(self._known)

    def expect(self, norm: float) -> Standing:
        """Return what `judge` would say, and know nothing of it after."""
        if not math.isfinite(norm):
            return Standing.REFUSED
        if norm == 0.0:
            return Standing.ACCEPTED
        if self._fixed is not None:
            return Standing.ACCEPTED if norm <= self._fixed else Standing.REFUSED
        known = [*self._known, norm]
        if len(known) >= NORMS_NEEDED and norm <= self._ratio * statistics.median(known):
            return Standing.ACCEPTED
        return Standing.HELD if len(self._held) < HELD_MAX else Standing.REFUSED

    def judge(self, number: int, norm: float) -> list[int]:
        """Know an update that is not refused; return the numbers that are accepted by that."""
        standing = self.expect(norm)
        assert standing is not Standing.REFUSED
        if self._fixed is not None or norm == 0.0:
            return [number]
        self._known.append(norm)
        self._held[number] = norm
        bound = self.bound
        if bound is None:
            return []
        return self._release(bound)

    def outlook(self) -> tuple[list[int], list[int]]:
        """Return what `close` would, and decide nothing."""
        bound = self.bound
        accepted = [n for n, norm in self._held.items() if bound is None or norm <= bound]
        return accepted, [number for number in self._held if number not in accepted]

    def close(self) -> tuple[list[int], list[int]]:
        """Return which of those held are accepted, and which refused, by the last median."""
        decided = self.outlook()
        self._held = {}
        return decided

    def _release(self, bound: float) -> list[int]:
        released = [number for number, norm in self._held.items() if norm <= bound]
        for number in released:
            del self._held[number]
        return released
