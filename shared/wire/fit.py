"""Fit: what a device measured of a release's variants, what it chose, and what others chose before.

1. A FitRow is one way to run a release here: a variant, on a backend, by so many threads. One that
   did not load, reproduce its golden outputs, or end in time has a `code` and no times.
2. A FitReport is the whole table with the choice. `choice` is missing where no row was good enough.
3. A FitHint is what most devices of the same hardware came to. Whoever gets one brings that variant
   alone and confirms it with a short measurement; what it says is never believed unmeasured.
4. Devices are of the same hardware where machine, board, cores and whole GiB of memory are equal.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.release.digest import digest_of
from shared.wire.limits import (
    Code,
    Count,
    Digest,
    Milliseconds,
    Number,
    Share,
    ShortText,
    Version,
)
from shared.wire.presence import Hardware

ROWS_MAX = 32
THREADS_MAX = 1024
TEXT_CHARS_MAX = 300
FINGERPRINT_CHARS = 16
_GIB = 1 << 30

Threads = Annotated[int, Meta(ge=1, le=THREADS_MAX)]
Reason = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class FitStanding(StrEnum):
    """How a device came to its choice."""

    MEASURED = "measured"  # Every variant worth trying, here
    CONFIRMED = "confirmed"  # What others chose holds here: one short measurement
    ANEW = "measured-anew"  # It does not hold here: every variant, then


class FitRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to run a release on one device."""

    precision: ShortText
    backend: ShortText
    threads: Threads  # That share one session
    artifact_bytes: Count = 0
    run_ms_p50: Milliseconds = 0.0
    run_ms_p95: Milliseconds = 0.0
    items_per_s: Annotated[float, Meta(ge=0.0, le=1e12)] = 0.0  # All threads together
    runs_count: Count = 0
    rss_bytes: Count = 0  # That it takes, run by so many threads; 0: not known
    agreement: Share | None = None  # With fp32 on held-out items, as the hub measured it
    golden_error: Number | None = None
    code: Code | None = None  # Why it cannot be used here at all: "golden.mismatch", "worker.stuck"
    text: Reason = ""

    @property
    def way(self) -> tuple[str, str, int]:
        """Return what tells it from the other rows of its table."""
        return self.precision, self.backend, self.threads


class FitChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The row that a device runs."""

    precision: ShortText
    backend: ShortText
    threads: Threads

    @property
    def way(self) -> tuple[str, str, int]:
        """Return what tells it from other choices."""
        return self.precision, self.backend, self.threads


class FitReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release's table on one device."""

    version: Version
    manifest_digest: Digest
    fingerprint: Fingerprint
    rows: Annotated[tuple[FitRow, ...], Meta(max_length=ROWS_MAX)]
    choice: FitChoice | None = None
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=ROWS_MAX + 1)] = ()
    standing: FitStanding = FitStanding.MEASURED
    why: Reason = ""  # Why the others' choice was left

    @property
    def chosen(self) -> FitRow | None:
        """Return the row of the choice."""
        wanted = self.choice.way if self.choice else None
        return next((row for row in self.rows if row.way == wanted), None)


class FitHint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What most devices of the same hardware came to."""

    precision: ShortText
    backend: ShortText
    threads: Threads
    run_ms_p50: Milliseconds  # The median of theirs
    devices_count: Annotated[int, Meta(ge=1, le=2**53)]


def fingerprint_of(hardware: Hardware) -> str:
    """Return what pools the measurements of equal devices."""
    memory_gib = round(hardware.memory_bytes / _GIB)
    parts = (hardware.machine, hardware.board, str(hardware.cores_count), str(memory_gib))
    return digest_of("\n".join(parts).encode())[:FINGERPRINT_CHARS]
