"""The judge: counts of a wave in, one judgement out. Pure; it moves nothing.

In this order:
1. Too many failures, in the wave or among all devices moved so far: FAIL.
2. Nobody left to judge by: REFILL from those waiting.
3. Someone has time left to answer: WAIT. Every device has a deadline, so this ends.
4. More silent devices than allowed: HOLD. Silence is neither success nor failure.
5. Too few of those who answered are updated: HOLD.
6. Good: BAKE until it has stayed good long enough and on enough items; too few items by then and
   a deadline later is low traffic: HOLD.
7. PASS.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cloud_hub.rollouts.order import RolloutOrder
from cloud_hub.rollouts.rollout import PENDING, DeviceState, RolloutDevice
from shared.plural import counted


class Verdict(StrEnum):
    """What is to become of the wave."""

    WAIT = "wait"
    BAKE = "bake"
    PASS = "pass"  # noqa: S105  # No password.
    HOLD = "hold"
    FAIL = "fail"
    REFILL = "refill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Devices that count: neither removed nor excused."""

    size: int
    updated: int
    failed: int  # At least once in this rollout
    answered: int  # Updated or failed, by their last word
    pending: int
    unknown: int

    @property
    def failed_share(self) -> float:
        """Return failed / size."""
        return self.failed / self.size if self.size else 0.0

    @property
    def unknown_share(self) -> float:
        """Return unknown / size."""
        return self.unknown / self.size if self.size else 0.0

    @property
    def success_share(self) -> float:
        """Return updated / answered."""
        return self.updated / self.answered if self.answered else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTotals:
    """What the wave's devices decided with the new release since the wave has been good."""

    decided: int = 0
    failed: int = 0

    @property
    def failed_share(self) -> float:
        """Return failed / all."""
        total = self.decided + self.failed
        return self.failed / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveFacts:
    """All the judge knows."""

    wave: Counts
    so_far: Counts  # This wave and those before it
    waiting: int  # Devices whose wave has not come
    good_ms: int | None  # Since when the wave has been good
    items: ItemTotals | None = None  # None: not known right now


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with its reason: what was measured against which limit."""

    verdict: Verdict
    code: str
    text: str
    measured: float | None = None
    limit: float | None = None


def count_devices(devices: Iterable[RolloutDevice]) -> Counts:
    """Return the counts of those among `devices` that count."""
    counted = [d for d in devices if not d.is_excused and d.state is not DeviceState.REMOVED]
    return Counts(
        size=len(counted),
        updated=sum(d.state is DeviceState.UPDATED for d in counted),
        failed=sum(d.failures_count > 0 for d in counted),
        answered=sum(d.state in (DeviceState.UPDATED, DeviceState.FAILED) for d in counted),
        pending=sum(d.state in PENDING for d in counted),
        unknown=sum(d.state is DeviceState.UNKNOWN for d in counted),
    )


def judge_wave(facts: WaveFacts, order: RolloutOrder, *, now_ms: int) -> Judgement:
    """Return what is to become of the wave; see the rules above."""
    return (
        _judge_failures(facts, order)
        or _judge_emptiness(facts)
        or _judge_answers(facts, order)
        or _judge_bake(facts, order, now_ms)
    )


def _judge_failures(facts: WaveFacts, order: RolloutOrder) -> Judgement | None:
    limit = order.failure_limit
    for name, counts in (("of the wave", facts.wave), ("moved so far", facts.so_far)):
        whom = f"{counted(counts.size, 'device')} {name}"
        if counts.failed >= limit.count_min and counts.failed_share > limit.share_max:
            return Judgement(
                verdict=Verdict.FAIL,
                code="wave.failed",
                text=f"{counts.failed} of {whom} failed "
                f"({counts.failed_share:.1%}); the limit is {limit.share_max:.1%}.",
                measured=counts.failed_share,
                limit=limit.share_max,
            )
    items, share_max = facts.items, order.items_failed_share_max
    if order.bake_items_min == 0 or items is None or items.decided + items.failed == 0:
        return None
    if items.decided + items.failed < order.bake_items_min or items.failed_share <= share_max:
        return None
    return Judgement(
        verdict=Verdict.FAIL,
        code="wave.items_failed",
        text=f"Inference failed on {items.failed} of {items.decided + items.failed} items "
        f"({items.failed_share:.1%}); the limit is {share_max:.1%}.",
        measured=items.failed_share,
        limit=share_max,
    )


def _judge_emptiness(facts: WaveFacts) -> Judgement | None:
    if facts.wave.size > 0:
        return None
    if facts.waiting > 0:
        return Judgement(
            verdict=Verdict.REFILL,
            code="wave.refilled",
            text="Every device of the wave was revoked or excused; those waiting take their place.",
        )
    if facts.so_far.size > 0:
        return None  # The devices before it still say whether the release is good.
    return Judgement(
        verdict=Verdict.HOLD,
        code="wave.empty",
        text="Every device of the rollout was revoked or excused: nobody can prove the release.",
        measured=0,
        limit=1,
    )


def _judge_answers(facts: WaveFacts, order: RolloutOrder) -> Judgement | None:
    for name, counts in (("of the wave", facts.wave), ("moved so far", facts.so_far)):
        if counts.size == 0:
            continue
        whom = f"{counted(counts.size, 'device')} {name}"
        if counts.pending > 0:
            return Judgement(
                verdict=Verdict.WAIT,
                code="wave.pending",
                text=f"{counts.pending} of {whom} did not answer yet.",
                measured=counts.pending,
                limit=0,
            )
        if counts.unknown_share > order.unknown_share_max:
            return Judgement(
                verdict=Verdict.HOLD,
                code="wave.silent",
                text=f"{counts.unknown} of {whom} did not answer within "
                f"{order.wave_deadline_s:g} s: unknown is neither updated nor failed.",
                measured=counts.unknown_share,
                limit=order.unknown_share_max,
            )
        if counts.success_share < order.success_share_min:
            return Judgement(
                verdict=Verdict.HOLD,
                code="wave.short",
                text=f"Of {counted(counts.answered, 'device')} {name} that answered, "
                f"{counts.updated} proved the release ({counts.success_share:.1%}); "
                f"{order.success_share_min:.1%} are needed.",
                measured=counts.success_share,
                limit=order.success_share_min,
            )
    return None


def _judge_bake(facts: WaveFacts, order: RolloutOrder, now_ms: int) -> Judgement:
    wave = f"{counted(facts.wave.size, 'device')} of the wave"
    good_s = 0.0 if facts.good_ms is None else (now_ms - facts.good_ms) / 1000
    if facts.good_ms is None or good_s < order.bake_s:
        return Judgement(
            verdict=Verdict.BAKE,
            code="wave.good",
            text=f"{facts.wave.updated} of {wave} proved the "
            f"release; it must stay so for {order.bake_s:g} s.",
            measured=max(good_s, 0.0),
            limit=order.bake_s,
        )
    decided = facts.items.decided if facts.items is not None else 0
    if decided < order.bake_items_min:
        items = counted(decided, "item")
        is_late = good_s >= order.bake_s + order.wave_deadline_s
        return Judgement(
            verdict=Verdict.HOLD if is_late else Verdict.BAKE,
            code="wave.low_traffic" if is_late else "wave.good",
            text=f"The wave decided {items} in {good_s:.0f} s with the new release; "
            f"{order.bake_items_min} are needed to judge by.",
            measured=decided,
            limit=order.bake_items_min,
        )
    return Judgement(
        verdict=Verdict.PASS,
        code="wave.passed",
        text=f"{facts.wave.updated} of {wave} proved the "
        f"release and stayed good for {good_s:.0f} s.",
        measured=facts.wave.success_share,
        limit=order.success_share_min,
    )
