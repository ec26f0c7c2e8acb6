"""Which samples this device's owner lets leave, and what has left: for people and as JSON.

Reads only; no network, and no sample is opened.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edge_agent.config import AgentConfig
from edge_agent.sharing.file_ledger import FOLDER, SharingLedger
from edge_agent.sharing.file_standing import FileStanding
from edge_agent.sharing.policy import DAY_MS, Sending, allowance, obstacles
from edge_agent.sharing.settings import SharedSamples, SharingSettings
from edge_agent.sharing.standing import EntryStanding, EntryState
from edge_agent.training.procfs_power import ProcfsPower
from shared.clock import Clock, now_ms
from shared.errors import RefusedError
from shared.findings import Finding, Level
from shared.plural import counted

ABSENT = "sharing.absent"
NOTHING = "No sample leaves this device: the file has no [sharing]."
LAST_MAX = 10_000


class SharingView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `edge-agent sharing` says."""

    settings: SharingSettings
    reasons: tuple[str, ...]  # Why nothing leaves now; empty: it may
    sent_count: int  # Within 24 hours
    sent_bytes: int
    left_count: int
    left_bytes: int
    entries: tuple[EntryStanding, ...]  # As the agent said last; empty: it has not run
    last: tuple[Sending, ...]


def view_sharing(config: AgentConfig, state: Path, clock: Clock, *, last: int = 0) -> SharingView:
    """Return how things stand.

    Args: last: how many of the samples that left to list, the newest.

    Raises RefusedError `sharing.absent`; IntegrityError `sharing.ledger`.
    """
    settings = config.sharing
    if settings is None:
        remedy = "Add [sharing] with samples to let some leave."
        raise RefusedError(ABSENT, NOTHING, remedy=remedy)
    at_ms = now_ms(clock)
    sent = SharingLedger(state / FOLDER).sendings()
    today = [sending for sending in sent if sending.at_ms > at_ms - DAY_MS]
    left = allowance(settings, sent, now_ms=at_ms)
    standing = FileStanding(state / FOLDER).read()
    conditions = ProcfsPower(clock).read(is_clock_trusted=True)
    count = min(last, LAST_MAX)
    return SharingView(
        settings=settings,
        reasons=tuple(obstacle.text for obstacle in obstacles(settings, conditions)),
        sent_count=len(today),
        sent_bytes=sum(sending.bytes_count for sending in today),
        left_count=left.items_count,
        left_bytes=left.bytes_count,
        entries=standing.entries if standing is not None else (),
        last=sent[-count:] if count else (),
    )


def sharing_lines(view: SharingView) -> Iterator[str]:
    """Yield it as a person reads it."""
    yield from (entry_text(samples) for samples in view.settings.samples)
    yield from _limit_lines(view)
    if view.reasons:
        yield "now: nothing leaves"
        yield from (f"  {reason}" for reason in view.reasons)
    for entry in view.entries:
        yield f"{entry.dataset}, {entry.path}: {_state_text(entry)}"
    for sending in view.last:
        at = datetime.fromtimestamp(sending.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        yield f"{at}  {sending.digest}  {sending.bytes_count} bytes  to {sending.dataset}"


def look_at_sharing(config: AgentConfig, state: Path, clock: Clock) -> Iterator[Finding]:
    """Yield what a doctor says of it."""
    if config.sharing is None:
        yield Finding("sharing", Level.GOOD, NOTHING)
        return
    view = view_sharing(config, state, clock)
    for samples in config.sharing.samples:
        if not Path(samples.path).exists():
            text = f"There is nothing at {samples.path}."
            remedy = "Put samples there, or correct [[sharing.samples]]."
            yield Finding(f"sharing with {samples.dataset}", Level.WARNING, text, remedy)
    leaves = "; ".join(entry_text(samples) for samples in config.sharing.samples)
    left = f"{counted(view.left_count, 'sample')}, {counted(view.left_bytes, 'byte')}"
    text = f"{leaves}; left today: {left}"
    yield Finding("sharing", Level.GOOD, text)


def entry_text(samples: SharedSamples) -> str:
    """Return in words what leaves by one entry."""
    told = ["labels"] if samples.with_labels else []
    told += ["times"] if samples.with_times else []
    told += [f"the site {samples.site!r}"] if samples.site else []
    of = f" of {samples.model}" if samples.model else ""
    with_ = " and ".join(told) if told else "nothing else"
    return f"samples{of} in {samples.path} leave for the dataset {samples.dataset}, with {with_}"


def _limit_lines(view: SharingView) -> Iterator[str]:
    settings = view.settings
    hours = "at any hour"
    if settings.hours_from is not None:
        hours = f"from {settings.hours_from} to {settings.hours_to}"
    battery = (
        f"from {settings.battery_share_min:.0%} of its battery" if settings.on_battery else "never"
    )
    metered = "too" if settings.on_metered else "never"
    yield f"they leave {hours}; on battery: {battery}; over mobile networks: {metered}"
    yield (
        f"within 24 hours {view.sent_count} samples and {view.sent_bytes:,} bytes have left; "
        f"{view.left_count} of {settings.items_per_day_max} samples and {view.left_bytes:,} of "
        f"{settings.bytes_per_day_max:,} bytes are left"
    )


def _state_text(entry: EntryStanding) -> str:
    states = {
        EntryState.SENDING: "sends",
        EntryState.DONE: "the hub has all of it",
        EntryState.WAITING: "waits",
        EntryState.NOT_WANTED: "the hub has not asked for it",
    }
    count = f"; {entry.sent_count} sent since the start"
    left_out = f", {entry.left_out_count} left out" if entry.left_out_count else ""
    why = f": {entry.text}" if entry.text and entry.state is not EntryState.DONE else ""
    return f"{states[entry.state]}{count}{left_out}{why}"
