"""Fitter: measures the variants of a release that are on this disk, and chooses one.

1. Every candidate is loaded by every backend and reproduces its golden outputs first. What fails,
   crashes or hangs there is a row with its code; the others go on.
2. Those that are left are timed on golden inputs, by one thread and by as many as there are lanes
   (inference/fit_timing.py). A release with one candidate gets one short block each: there is
   nothing to choose between but threads.
3. Candidates of up to TOGETHER_BYTES_MAX are loaded together and timed by turns; larger ones one
   after another, so that a small device holds one at a time.
4. What others with this hardware came to (the hint) is confirmed by CONFIRM_BLOCKS blocks of just
   that. Where it does not hold, or is not to be had here, the answer is `unconfirmed`: the caller
   brings the other variants.
5. Sessions that are not chosen are closed before `measure` returns.

What must not live here: rules (inference/fit.py), files (file_fit.py).
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from edge_agent.inference.fit import Chosen, choose, confirm
from edge_agent.inference.fit_timing import BLOCKS_MAX, Way, time_ways
from edge_agent.inference.procfs_rss import read_rss_bytes
from edge_agent.inference.session import ModelSession
from edge_agent.updates.release_source import FetchedRelease, FetchedVariant
from edge_agent.updates.variants import Acceptance, admitted, agreement_of
from shared.clock import Clock
from shared.errors import (
    ContractError,
    IsthmusError,
    RefusedError,
    TransientError,
)
from shared.model.spec import ModelSpec
from shared.pipeline.pipeline import PipelineLimits
from shared.release.golden import GoldenResult, GoldenSet, read_golden_items
from shared.release.manifest import Manifest
from shared.wire.fit import (
    ROWS_MAX,
    TEXT_CHARS_MAX,
    FitChoice,
    FitHint,
    FitReport,
    FitRow,
    FitStanding,
)

log = logging.getLogger(__name__)

FIT_S_MAX = 10.0
INPUTS_MAX = 8
CONFIRM_BLOCKS = 2
TOGETHER_BYTES_MAX = 96 << 20
ANYTHING = Acceptance(PipelineLimits(), bytes_max=1 << 62)
WORKER_CODES = "worker."  # A session's own trouble; other TransientErrors are the disk's

Array = NDArray[np.generic]
# Path, spec, and how many threads will run it at once.
Backend = Callable[[Path, ModelSpec, int], ModelSession]
Prove = Callable[[ModelSession, Iterable[GoldenSet]], GoldenResult]


@dataclass(slots=True)
class _Tried:
    """One candidate on one backend."""

    fetched: FetchedVariant
    backend: str
    session: ModelSession | None = None
    golden: GoldenResult | None = None
    rss_bytes: int = 0
    error: IsthmusError | None = None
    ways: list[Way] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """What measuring came to. Without a choice there is an error, or `unconfirmed` says why."""

    report: FitReport
    fetched: FetchedVariant | None = None
    session: ModelSession | None = None  # Loaded as chosen, where it need not be loaded again
    golden: GoldenResult | None = None
    error: RefusedError | None = None
    unconfirmed: str = ""


@dataclass(frozen=True, slots=True)
class Fitter:
    """See the rules above. Used by one thread."""

    backends: Mapping[str, Backend]  # By name, the one to fall back on first
    prove_golden: Prove
    limits: Callable[[str], PipelineLimits]  # Of a model: the strictest of its pipelines
    threads: tuple[int, ...]  # To try, in order; (1, lanes)
    fingerprint: str  # Of this hardware
    clock: Clock
    memory_of: Callable[[ModelSession], int | None] = lambda _session: None  # Of a worker
    acceptance: Acceptance = ANYTHING  # What this device brings, whatever the limits

    def admitted(self, manifest: Manifest, limits: PipelineLimits) -> frozenset[str]:
        """Return the precisions of a release that are worth measuring under `limits`."""
        return admitted(manifest, replace(self.acceptance, limits=limits))

    def load(self, fetched: FetchedVariant, spec: ModelSpec, choice: FitChoice) -> ModelSession:
        """Return a variant loaded as it was chosen; a backend that is gone is the first one."""
        backend = self.backends.get(choice.backend) or next(iter(self.backends.values()))
        return backend(fetched.artifact_path, spec, choice.threads)

    def measure(
        self, release: FetchedRelease, *, hint: FitHint | UnsetType = UNSET, why: str = ""
    ) -> Measured:
        """Return the table of a release's candidates with the choice.

        Args: why: what kept an earlier hint from being confirmed.

        Raises TransientError `disk.failed`, or OSError, if a file cannot be read now.
        """
        if hint is not UNSET:
            tried = self._confirm(release, hint)
            if tried is not None:
                return tried
        all_tried = self._try_all(release)
        rows = [row for tried in all_tried for row in _rows(tried)][:ROWS_MAX]
        standing = FitStanding.ANEW if why else FitStanding.MEASURED
        report = self._report(release, rows, standing, why)
        try:
            chosen = choose(rows, self.limits(release.manifest.model))
        except RefusedError as error:
            _close(all_tried)
            return Measured(report, error=error)
        return self._chosen(report, chosen, all_tried)

    def _confirm(self, release: FetchedRelease, hint: FitHint) -> Measured | None:
        """Return what a short measurement of the hinted way came to; None: it is not here."""
        found = [c for c in release.candidates if c.variant.precision == hint.precision]
        if not found:
            return None
        problem = self._unlike(hint)
        if problem:  # Nothing was measured, and what came is the hinted variant alone.
            report = self._report(release, (), FitStanding.ANEW, problem)
            return Measured(report, unconfirmed=problem)
        tried = self._load(found[0], hint.backend, release.manifest.spec)
        self._time([tried], (hint.threads,), blocks_max=CONFIRM_BLOCKS)
        rows = _rows(tried)
        problem = confirm(rows[0], hint, self.limits(release.manifest.model))
        if problem:
            _close([tried])
            report = self._report(release, rows, FitStanding.ANEW, problem)
            return Measured(report, unconfirmed=problem[:TEXT_CHARS_MAX])
        report = self._report(release, rows, FitStanding.CONFIRMED, "")
        text = f"{hint.devices_count} devices of this hardware came to it, and it holds here"
        return self._chosen(report, Chosen(rows[0], (text,)), [tried])

    def _unlike(self, hint: FitHint) -> str:
        """Return what the hinted way needs and this device has not; empty if nothing."""
        if hint.backend not in self.backends:
            return f"devices of this hardware chose {hint.backend}, which is not here"
        if hint.threads not in self.threads:
            return f"devices of this hardware chose {hint.threads} threads, which are not set here"
        return ""

    def _chosen(self, report: FitReport, chosen: Chosen, tried: Sequence[_Tried]) -> Measured:
        row = chosen.row
        winner = next(
            t
            for t in tried
            if (t.fetched.variant.precision, t.backend) == (row.precision, row.backend)
        )
        # Loaded for the most threads that were tried; for fewer it is loaded again.
        is_as_chosen = row.threads == max(way.threads for way in winner.ways)
        _close(t for t in tried if t is not winner or not is_as_chosen)
        log.info("fit.chosen", extra={"way": row.way, "why": chosen.reasons[0]})
        return Measured(
            msgspec.structs.replace(report, choice=chosen.choice, reasons=chosen.reasons),
            fetched=winner.fetched,
            session=winner.session,
            golden=winner.golden,
        )

    def _try_all(self, release: FetchedRelease) -> list[_Tried]:
        candidates, spec = release.candidates, release.manifest.spec
        pairs = [(c, backend) for c in candidates for backend in self.backends]
        blocks_max = BLOCKS_MAX if len(pairs) > 1 else 1
        total_bytes = sum(c.variant.artifact.file_bytes for c in candidates)
        if total_bytes <= TOGETHER_BYTES_MAX:
            tried = [self._load(c, backend, spec) for c, backend in pairs]
            self._time(tried, self.threads, blocks_max=blocks_max)
            return tried
        tried = []
        for candidate, backend in pairs:
            one = self._load(candidate, backend, spec)
            share_s = FIT_S_MAX / len(pairs)
            self._time([one], self.threads, blocks_max=blocks_max, seconds_max=share_s)
            _close([one])
            tried.append(one)
        return tried

    def _load(self, fetched: FetchedVariant, backend: str, spec: ModelSpec) -> _Tried:
        """Return a candidate loaded and proved, or with what kept it from that."""
        tried = _Tried(fetched, backend)
        before_bytes = read_rss_bytes()
        with _row_errors(tried):
            threads = max(self.threads)
            tried.session = self.backends[backend](fetched.artifact_path, spec, threads)
            known_bytes = self.memory_of(tried.session)
            growth_bytes = max(0, read_rss_bytes() - before_bytes)
            tried.rss_bytes = growth_bytes if known_bytes is None else known_bytes
            tried.golden = self.prove_golden(tried.session, read_golden_items(fetched.golden_path))
            if not tried.golden.is_within:
                raise golden_mismatch(tried.golden)
        if tried.error is not None:
            log.warning(
                "fit.unusable",
                extra={"precision": fetched.variant.precision, "code": tried.error.code},
            )
            _close([tried])
        return tried

    def _time(
        self,
        tried: Sequence[_Tried],
        threads: Sequence[int],
        *,
        blocks_max: int,
        seconds_max: float = FIT_S_MAX,
    ) -> None:
        usable = [t for t in tried if t.session is not None]
        for one in usable:
            assert one.session is not None
            # Variants of one release may differ in what they take: floats, or folded uint8.
            inputs = _inputs(one.fetched.golden_path)
            read = partial(self._held_bytes, one.session)
            one.ways = [Way(one.session, count, inputs, read) for count in sorted(set(threads))]
        ways = [way for one in usable for way in one.ways]
        time_ways(ways, self.clock, seconds_max=seconds_max, blocks_max=blocks_max)
        for one in usable:
            most = one.ways[-1]  # By now all its threads have surely run at the same time
            most.rss_bytes = max(most.rss_bytes, most.read_rss_bytes())

    def _held_bytes(self, session: ModelSession) -> int:
        return self.memory_of(session) or 0

    def _report(
        self, release: FetchedRelease, rows: Sequence[FitRow], standing: FitStanding, why: str
    ) -> FitReport:
        return FitReport(
            version=release.manifest.version,
            manifest_digest=release.manifest_digest,
            fingerprint=self.fingerprint,
            rows=tuple(rows),
            standing=standing,
            why=why[:TEXT_CHARS_MAX],
        )


def golden_mismatch(golden: GoldenResult) -> RefusedError:
    """Return the refusal of what does not compute what its release says."""
    return RefusedError(
        "golden.mismatch",
        f"Its golden outputs are not reproduced here: they are off by up to "
        f"{golden.error_max:.3g}, {golden.excess_max:.3g} more than is allowed.",
    )


@contextmanager
def _row_errors(tried: _Tried) -> Iterator[None]:
    """Keep what is the candidate's own fault; let through what the disk does."""
    try:
        yield
    except (RefusedError, ContractError) as error:
        tried.error = error
    except TransientError as error:
        if not error.code.startswith(WORKER_CODES):
            raise
        tried.error = error


def _rows(tried: _Tried) -> list[FitRow]:
    """Return the rows of one candidate on one backend; one row if it came to nothing."""
    variant = tried.fetched.variant
    common = FitRow(
        precision=variant.precision,
        backend=tried.backend,
        threads=1,
        artifact_bytes=variant.artifact.file_bytes,
        rss_bytes=tried.rss_bytes,
        agreement=agreement_of(variant),
        golden_error=_finite(tried.golden),
    )
    if tried.error is not None:
        return [_refused(common, tried.error)]
    return [_row(common, way) for way in tried.ways]


def _row(common: FitRow, way: Way) -> FitRow:
    rss_bytes = max(common.rss_bytes, way.rss_bytes)
    common = msgspec.structs.replace(common, threads=way.threads, rss_bytes=rss_bytes)
    if way.error is not None:
        return _refused(common, way.error)
    return msgspec.structs.replace(
        common,
        run_ms_p50=way.run_ms_p50,
        run_ms_p95=way.run_ms_p95,
        items_per_s=way.items_per_s_median,
        runs_count=len(way.run_ms),
    )


def _refused(row: FitRow, error: IsthmusError) -> FitRow:
    return msgspec.structs.replace(row, code=error.code, text=error.message[:TEXT_CHARS_MAX])


def _finite(golden: GoldenResult | None) -> float | None:
    if golden is None or not math.isfinite(golden.error_max):
        return None
    return golden.error_max


def _inputs(path: Path) -> Array:
    """Return the first golden inputs, (n, ...)."""
    items = islice(read_golden_items(path), INPUTS_MAX)
    return np.concatenate([item.inputs for item in items])


def _close(tried: Iterable[_Tried]) -> None:
    for one in tried:
        if one.session is not None:
            one.session.close()
            one.session = None
