"""StatusFile: what the running agent says of itself on its own machine, for `edge-agent status`.

1. Written whole every WRITE_S, not flushed: it is of use only while the agent runs.
2. Read only while an agent holds the lock beside it: what a killed one left says nothing.
3. One older than STALE_S is of an agent that hangs, and says nothing either.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_agent.local_servers import LocalServer
from edge_agent.telemetry.numbers import AgentNumbers
from edge_agent.telemetry.sql_outbox import SqlOutbox
from shared.file_lock import is_locked
from shared.ids import DeviceId
from shared.wire.report import Report

WRITE_S = 1.0
STALE_S = 10.0
STATUS_NAME = "status.json"
LOCK_NAME = "lock"  # Held by the agent while it runs
FILE_BYTES_MAX = 1 << 20


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself."""

    device: str
    hub_url: str
    is_connected: bool
    pid: Annotated[int, Meta(ge=1)]
    written_s: float
    started_s: float
    outbox_rows: int
    outbox_bytes: int
    outbox_dropped: int
    crashes: dict[str, int]
    report: Report
    numbers: AgentNumbers | None = None
    servers: tuple[LocalServer, ...] = ()


class StatusFile:
    """One file. Written by the agent, read by the command line."""

    def __init__(self, folder: Path) -> None:
        """Args: the folder of the file and the lock; it exists when the file is written."""
        self._path = folder / STATUS_NAME
        self._lock_path = folder / LOCK_NAME
        self._started_s = 0.0
        self._written_s = 0.0

    def write(
        self,
        *,
        report: Report,
        device: DeviceId,
        hub_url: str,
        is_connected: bool,
        outbox: SqlOutbox,
        crashes: Mapping[str, int],
        now_s: float,
        numbers: AgentNumbers | None = None,
        servers: tuple[LocalServer, ...] = (),
    ) -> None:
        """Write the status, unless it was written less than WRITE_S ago. A full disk is ignored."""
        if 0 <= now_s - self._written_s < WRITE_S:
            return
        self._started_s = self._started_s or now_s
        self._written_s = now_s
        status = AgentStatus(
            device=device,
            hub_url=hub_url,
            is_connected=is_connected,
            pid=os.getpid(),
            written_s=now_s,
            started_s=self._started_s,
            outbox_rows=outbox.rows_count,
            outbox_bytes=outbox.bytes_count,
            outbox_dropped=outbox.dropped_count,
            crashes=dict(crashes),
            report=report,
            numbers=numbers,
            servers=servers,
        )
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(status))
            fresh.replace(self._path)
        except OSError:
            return

    def read(self, *, now_s: float) -> AgentStatus | None:
        """Return what the running agent says; None if none runs with this folder."""
        if not is_locked(self._lock_path):
            return None
        try:
            if self._path.stat().st_size > FILE_BYTES_MAX:
                return None
            status = msgspec.json.decode(self._path.read_bytes(), type=AgentStatus)
        except (OSError, msgspec.MsgspecError):
            return None
        return status if abs(now_s - status.written_s) <= STALE_S else None

    def remove(self) -> None:
        """Take the file away: the agent ends."""
        with suppress(OSError):  # A disk that is gone; nobody reads the file without the lock.
            self._path.unlink(missing_ok=True)
