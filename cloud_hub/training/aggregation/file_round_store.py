"""RoundStore: the updates of one Round, durable before they count.

1. An update that passes the checks is written to the spool and on the disk before it counts
   (file_spool.py). What is decided about it follows from the updates there and their order alone,
   so after a kill the same is decided again.
2. Mean-type strategies: what is accepted is folded into one float64 sum as it arrives, but for the
   heaviest few (shares.py), whose weight is known only when the Round closes. Memory is the sum,
   the update at hand and a chunk of a file.
3. Every FOLDED_MAX folded updates the sum is written as a checkpoint, then their files are dropped.
   A checkpoint names what it holds: a file of one of those that a kill left is dropped later. The
   disk holds at most FOLDED_MAX + RESERVE_MAX + HELD_MAX updates and two sums.
4. Robust strategies keep every update's file and work on blocks of columns when the Round closes.
   At most SPOOL_BYTES_MAX; further updates are refused.
5. A checkpoint that cannot be written is tried again with the next update: nothing hangs on it but
   disk space.
6. Differs from Flower's FedAvg in this: updates instead of weights are averaged (the same but for
   rounding, and it keeps more digits), and weights are checked, not believed.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cloud_hub.training.aggregation import central_privacy, fair, krum, mean, robust, shares
from cloud_hub.training.aggregation.checks import RoundNorms, UpdateChecks
from cloud_hub.training.aggregation.entry import (
    Aggregate,
    Standing,
    UpdateEntry,
    UpdateRecord,
    Verdict,
)
from cloud_hub.training.aggregation.file_spool import Ledger, Spool
from cloud_hub.training.aggregation.late import discount
from cloud_hub.training.order import (
    ROBUST,
    BulyanStrategy,
    CentralPrivacy,
    FairStrategy,
    KrumStrategy,
    LateSettings,
    MedianStrategy,
    Strategy,
    TrimmedStrategy,
)
from shared.errors import RefusedError, TransientError
from shared.model.weights import Layout, Vector

FOLDED_MAX = 16
SPOOL_BYTES_MAX = 64 << 30
# What only a faulty or malicious device sends: it is one of those that a strategy reckons with.
OUTCAST_CODES = frozenset(
    {
        "reply.invalid",
        "reply.misfit",
        "reply.measurement",
        "update.names",
        "update.shape",
        "update.dtype",
        "update.not_finite",
        "update.norm",
    }
)

log = logging.getLogger(__name__)


class RoundStore:
    """What arrived in one Round. One per Round (or repetition), in a folder of its own.

    `restore()` first, always; then `add` for every answer, `close` once, and `discard` when what
    came of it is in the Job's checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        strategy: Strategy,
        *,
        checks: UpdateChecks,
        late: LateSettings,
        privacy: CentralPrivacy | None = None,
        folded_max: int = FOLDED_MAX,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
    ) -> None:
        """Args: folder is made if it is not there; `checks` is the Job's, one over all Rounds."""
        self._spool = Spool(folder, layout.size)
        self._size = layout.size
        self._strategy = strategy
        self._checks = checks
        self._late = late
        self._privacy = privacy
        self._folded_max = folded_max
        self._spool_bytes_max = spool_bytes_max
        self._norms = RoundNorms(checks)
        self._is_robust = isinstance(strategy, ROBUST)
        is_weighted = not self._is_robust and privacy is None
        self._share_max = checks.settings.weight_share_max if is_weighted else 1.0
        self._reserve_size = shares.reserve_size(self._share_max)
        self._records: dict[int, UpdateRecord] = {}  # All that count or are held
        self._keys: set[tuple[str, int]] = set()
        self._accepted: set[int] = set()
        self._reserve: list[UpdateRecord] = []  # Accepted, not folded
        self._folded: list[UpdateRecord] = []
        self._folded_count_kept = 0  # Of those, how many the checkpoint on the disk holds
        self._total: mean.Sum | None = None
        self._outcasts: set[str] = set()  # Refused for what they sent
        self._is_restored = False
        self._aggregate: Aggregate | None = None

    @property
    def devices_count(self) -> int:
        """Return how many updates count or are held."""
        return len(self._records)

    def restore(self, *, outcasts: Iterable[str] = ()) -> tuple[Verdict, ...]:
        """Return how what is there from before a kill stands, in order of arrival.

        Args: outcasts: devices that were refused for what they sent (OUTCAST_CODES).

        Raises IntegrityError `round.damaged`, TransientError `disk.write_failed`.
        """
        assert not self._is_restored
        self._is_restored = True
        self._outcasts.update(outcasts)
        kept: tuple[UpdateRecord, ...] = ()
        checkpoint = self._spool.read_checkpoint()
        if checkpoint is not None:
            kept, self._total = checkpoint[0].folded, checkpoint[1]
        in_sum = {record.number for record in kept}
        spooled = []
        for record in self._spool.records():
            if record.number in in_sum:
                self._spool.drop(record.number)
            else:
                spooled.append(record)
        self._folded_count_kept = len(kept)
        for record in sorted((*kept, *spooled), key=lambda record: record.number):
            self._admit(record, None, in_sum=in_sum)
        return tuple(
            self._verdict(record, is_accepted=record.number in self._accepted)
            for record in self._records.values()
        )

    def add(self, entry: UpdateEntry) -> tuple[Verdict, ...]:
        """Return the verdict on this update, then those on earlier ones that were held until now.

        Accepted or held, it is on disk when this returns. A refusal is a Verdict, not an error;
        the same device twice is REFUSED `update.repeated`, and changes nothing.
        Raises TransientError `disk.write_failed`: then it does not count and may be added again.
        """
        assert self._is_restored
        assert self._aggregate is None
        assert entry.vector.shape == (self._size,)
        norm = mean.norm_of(entry.vector)
        try:
            record, factor = self._judged(entry, norm)
        except RefusedError as error:
            if error.code in OUTCAST_CODES:
                self._outcasts.add(entry.device)
            return (_refusal(entry, error, norm if np.isfinite(norm) else None),)
        vector = entry.vector if factor == 1.0 else entry.vector * np.float32(factor)
        self._spool.write(record, vector)
        accepted = self._admit(record, vector)
        self._save_if_due()
        first = self._verdict(record, is_accepted=record.number in accepted)
        others = [number for number in accepted if number != record.number]
        return (first, *(self._verdict(self._records[n], is_accepted=True) for n in others))

    def cast_out(self, device: str) -> None:
        """Count a device as found out (OUTCAST_CODES): what it sent cannot be added."""
        self._outcasts.add(device)

    def ready(self) -> tuple[UpdateRecord, ...]:
        """Return what would count if the Round closed now; decides nothing.

        Raises RefusedError `round.too_few` if that is less than the strategy needs
        (robust.updates_min(strategy): 1 for means, 3 for the median, 2f+3 for Krum, ...).
        """
        accepted, refused = self._norms.outlook()
        counted = [self._records[number] for number in sorted({*self._accepted, *accepted})]
        outcasts = len(self._outcasts) + len(refused)
        needed = robust.updates_min(self._strategy)
        needed -= min(outcasts, robust.outcasts_max(self._strategy))
        if len(counted) < needed:
            raise RefusedError(
                "round.too_few", f"{len(counted)} updates count; the strategy needs {needed}."
            )
        return tuple(counted)

    def close(self) -> Aggregate:
        """Return what the Round comes to. Changes nothing on disk: after a kill, close again.

        Raises RefusedError `round.too_few` as `ready` does: then the Round is as it was.
        """
        assert self._is_restored
        if self._aggregate is not None:
            return self._aggregate
        counted = list(self.ready())
        accepted, refused = self._norms.close()
        self._count(accepted, None)
        verdicts = [
            *(self._verdict(self._records[number], is_accepted=True) for number in accepted),
            *(_over_bound(self._records[number], self._norms.bound) for number in refused),
        ]
        vector, weight_sum = self._robust(counted) if self._is_robust else self._mean()
        if self._privacy is not None:
            std = central_privacy.noise_std(self._privacy, len(counted))
            central_privacy.add_noise(vector, std, central_privacy.secret_generator())
        self._checks.remember(record.norm for record in counted)
        devices = tuple(record.device for record in counted)
        norm = mean.norm_of(vector)
        self._aggregate = Aggregate(vector, devices, weight_sum, norm, tuple(verdicts))
        return self._aggregate

    def discard(self) -> None:
        """Remove the folder. Raises TransientError `disk.write_failed`."""
        self._spool.remove()

    def _judged(self, entry: UpdateEntry, norm: float) -> tuple[UpdateRecord, float]:
        """Return what to keep of an update that is not refused, and its factor by the clip."""
        if (entry.device, entry.rounds_late) in self._keys:
            raise RefusedError("update.repeated", "This device's update is there already.")
        worth = discount(entry.rounds_late, self._late, self._strategy, privacy=self._privacy)
        samples_weight = self._checks.weight(entry.samples_count)
        if not np.isfinite(norm):
            raise RefusedError("update.not_finite", "The update holds NaN or infinity.")
        factor = 1.0
        if self._checks.clip_norm is not None:
            factor = central_privacy.clip_factor(norm, self._checks.clip_norm)
            norm = min(norm, self._checks.clip_norm)
        if self._norms.expect(norm) is Standing.REFUSED:
            raise _norm_error(norm, self._norms.bound)
        if self._is_robust:
            self._check_room()
        weight, divisor = samples_weight, samples_weight
        if isinstance(self._strategy, FairStrategy):
            weight, divisor = fair.fair_weight(self._strategy, loss=entry.loss, norm=norm)
        elif self._privacy is not None or shares.weighs_alike(self._share_max):
            weight, divisor = 1.0, 1.0
        record = UpdateRecord(
            number=max(self._records, default=0) + 1,
            device=entry.device,
            norm=norm,
            weight=weight * worth,
            divisor=divisor * worth,
            samples_count=entry.samples_count,
            loss=entry.loss,
            rounds_late=entry.rounds_late,
            details=dict(entry.details),
        )
        return record, factor

    def _check_room(self) -> None:
        if (len(self._records) + 1) * self._spool.update_bytes() > self._spool_bytes_max:
            raise RefusedError(
                "update.no_room",
                f"The updates of this Round fill {self._spool_bytes_max} bytes already.",
                remedy="Ask fewer devices in one Round, or choose a strategy that takes the mean.",
            )

    def _admit(
        self, record: UpdateRecord, vector: Vector | None, *, in_sum: Iterable[int] = ()
    ) -> list[int]:
        """Know an update; return the numbers that are accepted by that.

        Args: vector: its numbers if at hand; in_sum: what the checkpoint's sum holds already.
        """
        self._records[record.number] = record
        self._keys.add((record.device, record.rounds_late))
        accepted = self._norms.judge(record.number, record.norm)
        self._count(accepted, (record.number, vector) if vector is not None else None, in_sum)
        return accepted

    def _count(
        self,
        numbers: Iterable[int],
        at_hand: tuple[int, Vector] | None,
        in_sum: Iterable[int] = (),
    ) -> None:
        for number in numbers:
            self._accepted.add(number)
            if self._is_robust:
                continue
            self._reserve.append(self._records[number])
            if len(self._reserve) <= self._reserve_size:
                continue
            lightest = min(self._reserve, key=lambda record: (record.weight, record.number))
            self._reserve.remove(lightest)
            self._folded.append(lightest)
            if lightest.number not in in_sum:
                self._fold(lightest, lightest.weight, self._sum(), at_hand)

    def _fold(
        self,
        record: UpdateRecord,
        weight: float,
        total: mean.Sum,
        at_hand: tuple[int, Vector] | None = None,
    ) -> None:
        if at_hand is not None and at_hand[0] == record.number:
            mean.fold(total, at_hand[1], weight)
            return
        self._spool.for_each_chunk(
            record.number,
            lambda start, part: mean.fold(total[start : start + part.size], part, weight),
        )

    def _sum(self) -> mean.Sum:
        if self._total is None:
            self._total = np.zeros(self._size, np.float64)
        return self._total

    def _save_if_due(self) -> None:
        """Write the sum if enough was folded since, and drop the files of what is in it."""
        fresh = self._folded[self._folded_count_kept :]
        if len(fresh) < self._folded_max:
            return
        try:
            self._spool.write_checkpoint(Ledger(folded=tuple(self._folded)), self._sum())
            self._folded_count_kept = len(self._folded)
            for record in fresh:
                self._spool.drop(record.number)
        except TransientError as error:
            log.warning("round.checkpoint_failed", extra={"code": error.code})

    def _mean(self) -> tuple[Vector, float]:
        """Return the mean and the sum of its weights; the sum in memory is used up by it."""
        total = self._sum()
        weight_sum = sum(record.weight for record in self._folded)
        divisor = sum(record.divisor for record in self._folded)
        weights = [record.weight for record in self._reserve]
        lowered = shares.capped(weights, weight_sum, share_max=self._share_max)
        for record, weight in zip(self._reserve, lowered, strict=True):
            self._fold(record, weight, total)
            weight_sum += weight
            divisor += record.divisor * (weight / record.weight)
        return mean.divided(total, divisor), weight_sum

    def _robust(self, counted: list[UpdateRecord]) -> tuple[Vector, float]:
        numbers = [record.number for record in counted]
        alike = float(len(numbers))
        match self._strategy:
            case MedianStrategy():
                return self._spool.map_columns(numbers, robust.median), alike
            case TrimmedStrategy(trimmed_share=share):
                return self._spool.map_columns(
                    numbers, lambda block: robust.trimmed_mean(block, share)
                ), alike
            case KrumStrategy():
                return self._nearest(counted, self._strategy)
            case _:
                raise AssertionError(self._strategy)

    def _nearest(self, counted: list[UpdateRecord], strategy: KrumStrategy) -> tuple[Vector, float]:
        gram = np.zeros((len(counted), len(counted)), np.float64)
        numbers = [record.number for record in counted]
        self._spool.for_each_block(numbers, lambda block: krum.add_gram(gram, block))
        chosen = [counted[row] for row in krum.chosen(gram, strategy)]
        if isinstance(strategy, BulyanStrategy):
            count = krum.bulyan_nearest_count(strategy, len(counted))
            vector = self._spool.map_columns(
                [record.number for record in chosen],
                lambda block: robust.nearest_mean(block, count),
            )
            return vector, float(len(chosen))
        share_max = self._checks.settings.weight_share_max
        weights = shares.capped([record.weight for record in chosen], 0.0, share_max=share_max)
        total = np.zeros(self._size, np.float64)
        for record, weight in zip(chosen, weights, strict=True):
            self._fold(record, weight, total)
        return mean.divided(total, sum(weights)), sum(weights)

    def _verdict(self, record: UpdateRecord, *, is_accepted: bool) -> Verdict:
        if is_accepted:
            return _decided(record, Standing.ACCEPTED)
        text = "Too few norms are known, or its own is above the bound so far."
        return _decided(record, Standing.HELD, code="update.held", text=text)


def _norm_error(norm: float, bound: float | None) -> RefusedError:
    limit = "what may be held" if bound is None else f"{bound:.6g}"
    return RefusedError("update.norm", f"Its norm is {norm:.6g}; the bound is {limit}.")


def _refusal(entry: UpdateEntry, error: RefusedError, norm: float | None) -> Verdict:
    return Verdict(
        entry.device,
        entry.rounds_late,
        Standing.REFUSED,
        error.code,
        error.message,
        norm,
        details=entry.details,
    )


def _over_bound(record: UpdateRecord, bound: float | None) -> Verdict:
    error = _norm_error(record.norm, bound)
    return _decided(record, Standing.REFUSED, code=error.code, text=error.message)


def _decided(
    record: UpdateRecord, standing: Standing, *, code: str = "", text: str = ""
) -> Verdict:
    return Verdict(
        record.device,
        record.rounds_late,
        standing,
        code,
        text,
        record.norm,
        record.weight,
        record.details,
    )
