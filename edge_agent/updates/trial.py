"""Trial: is the new release no worse than the old one, on this device's own items? Pure.

1. Only items on which both ran are evidence. Where both failed the item itself is to blame.
2. Never settled before `items_min` items and `seconds_min` seconds.
3. FAILED_IN_A_ROW failures of the new release on items that the old one could do end the trial at
   once; so do FAILED_MIN failures that `items_min` items could not make up for.
4. Disagreement and lost confidence end it early when the true value is over its limit with all
   but certainty (Hoeffding's bound, W. Hoeffding 1963, error rate EARLY_ERROR_RATE); without
   that certainty, and for latency, they are judged from `items_min` items on.
5. Latency is judged by medians, and only where the new median is over `latency_ms_floor`.
6. Fewer than `items_min` items at the deadline: silence, which is not success. The release goes.
7. A first release has nothing beside it. It runs beside itself, so that its failures show, and
   only they count; silence leaves it in its trial, because going back would leave nothing.

What must not live here: time, sessions, files.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.inference.active_model import Comparison
from shared.wire.target import TrialPolicy

FAILED_IN_A_ROW = 5
FAILED_MIN = 3
EARLY_ERROR_RATE = 1e-5
LATENCIES_MAX = 10_000  # Medians are over the newest so many items.


class Ruling(StrEnum):
    """What to do with a trial."""

    CONTINUE = "continue"
    SETTLE = "settle"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ruling; if WORSE, why: a stable code, and a sentence with what was measured."""

    ruling: Ruling
    code: str = ""
    text: str = ""


_CONTINUE = Verdict(Ruling.CONTINUE)
_SETTLE = Verdict(Ruling.SETTLE)


class Tally:
    """What came of both releases so far. Grows with `add`; bounded in memory."""

    def __init__(self, *, version: int, beside: int | None) -> None:
        """Args: the new release's version; the old one's, None for a first release."""
        self.is_alone = beside is None
        self._pair = (version, version if beside is None else beside)
        self.items_count = 0
        self.failed_count = 0
        self.failed_in_a_row = 0
        self.compared_count = 0
        self.disagreed_count = 0
        self._confidence_drop_sum = 0.0
        self._new_ms: deque[float] = deque(maxlen=LATENCIES_MAX)
        self._old_ms: deque[float] = deque(maxlen=LATENCIES_MAX)

    def add(self, comparisons: Iterable[Comparison]) -> None:
        """Count items; those of another pair of releases are left out."""
        for comparison in comparisons:
            if (comparison.serving_version, comparison.companion_version) == self._pair:
                self._add(comparison)

    def _add(self, item: Comparison) -> None:
        has_failed, has_old_failed = item.serving_ms is None, item.companion_ms is None
        if has_failed and has_old_failed and not self.is_alone:
            return
        self.items_count += 1
        self.failed_in_a_row = self.failed_in_a_row + 1 if has_failed else 0
        self.failed_count += has_failed
        if item.serving_ms is None or item.companion_ms is None or self.is_alone:
            return
        self.compared_count += 1
        self.disagreed_count += item.agrees is False
        self._new_ms.append(item.serving_ms)
        self._old_ms.append(item.companion_ms)
        if item.serving_confidence is not None and item.companion_confidence is not None:
            self._confidence_drop_sum += item.companion_confidence - item.serving_confidence

    @property
    def disagreed_share(self) -> float:
        """Return the share of compared items on which the two concluded differently."""
        return self.disagreed_count / max(1, self.compared_count)

    @property
    def confidence_drop(self) -> float:
        """Return by how much the new release is less sure, on average: -1..1."""
        return self._confidence_drop_sum / max(1, self.compared_count)

    @property
    def latency_ms_medians(self) -> tuple[float, float]:
        """Return the medians of the new and of the old release; 0 where nothing was compared."""
        if not self._new_ms:
            return 0.0, 0.0
        return statistics.median(self._new_ms), statistics.median(self._old_ms)


def judge(tally: Tally, policy: TrialPolicy, *, elapsed_s: float) -> Verdict:
    """Return whether the trial goes on, has settled, or says that the new release is worse."""
    has_items = tally.items_count >= policy.items_min
    worse = (
        _judge_failures(tally, policy)
        or _judge_disagreement(tally, policy, has_items=has_items)
        or _judge_confidence(tally, policy, has_items=has_items)
        or (_judge_latency(tally, policy) if has_items else None)
    )
    if worse:
        return worse
    if has_items:
        return _SETTLE if elapsed_s >= policy.seconds_min else _CONTINUE
    if elapsed_s >= policy.deadline_s and not tally.is_alone:
        return _worse(
            "trial.silent",
            f"Only {tally.items_count} of {policy.items_min} items came in {elapsed_s:.0f} s.",
        )
    return _CONTINUE


def _judge_failures(tally: Tally, policy: TrialPolicy) -> Verdict | None:
    if tally.failed_in_a_row >= FAILED_IN_A_ROW:
        return _worse("trial.failing", f"It failed on {FAILED_IN_A_ROW} items in a row.")
    items = max(tally.items_count, policy.items_min)
    if tally.failed_count < FAILED_MIN or tally.failed_count <= policy.failed_share_max * items:
        return None
    return _worse(
        "trial.failed_share",
        f"It failed on {tally.failed_count} of {tally.items_count} items; "
        f"{policy.failed_share_max:.1%} of {items} are allowed.",
    )


def _judge_disagreement(tally: Tally, policy: TrialPolicy, *, has_items: bool) -> Verdict | None:
    limit = policy.disagreement_share_max
    slack = 0.0 if has_items else _slack(tally.compared_count, width=1.0)
    if tally.disagreed_share - slack <= limit:
        return None
    return _worse(
        "trial.disagreement",
        f"It disagrees with the old release on {tally.disagreed_share:.1%} of "
        f"{tally.compared_count} items; {limit:.1%} are allowed.",
    )


def _judge_confidence(tally: Tally, policy: TrialPolicy, *, has_items: bool) -> Verdict | None:
    limit = policy.confidence_drop_max
    slack = 0.0 if has_items else _slack(tally.compared_count, width=2.0)
    if tally.confidence_drop - slack <= limit:
        return None
    return _worse(
        "trial.confidence",
        f"Its mean confidence is {tally.confidence_drop:.3f} lower on {tally.compared_count} "
        f"items; {limit:.3f} is allowed.",
    )


def _judge_latency(tally: Tally, policy: TrialPolicy) -> Verdict | None:
    new_ms, old_ms = tally.latency_ms_medians
    limit_ms = max(policy.latency_ratio_max * old_ms, policy.latency_ms_floor)
    if tally.is_alone or new_ms <= limit_ms:
        return None
    return _worse(
        "trial.slow",
        f"It takes {new_ms:.2f} ms an item (median), the old one {old_ms:.2f} ms; "
        f"{limit_ms:.2f} ms are allowed.",
    )


def _slack(count: int, *, width: float) -> float:
    """Return how far a mean of `count` values in an interval of `width` may be from the truth."""
    return width * math.sqrt(math.log(1 / EARLY_ERROR_RATE) / (2 * count)) if count else math.inf


def _worse(code: str, text: str) -> Verdict:
    return Verdict(Ruling.WORSE, code, text)
