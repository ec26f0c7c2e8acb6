"""Steward: makes Flower's SuperLink have what the hub wants, and tells the hub what it has.

1. Every TICK_S: read wanted.json if it is another one, carry out what is missing, look at the
   ServerApps, write standing.json. All of it may be repeated and is derived from Flower's database,
   /proc and wanted.json: the steward itself remembers nothing that a kill could lose.
2. A wanted.json that is missing or makes no sense changes nothing: what was wanted before stays
   (after a start: nothing is taken away and nothing started), and `trouble` says so.
3. A node that is no longer wanted, or whose key changed, is unregistered.
4. A wanted run that is not there is started, once nothing of the Job's earlier attempts lives. The
   steward claims its task and starts its ServerApp.
5. A run that has a claimed task but no living ServerApp failed: the hub makes the next attempt.
   One that Flower put back to pending while its ServerApp lives has lost its token: the ServerApp
   is ended, then another one started.
6. A run that is not wanted is stopped and its ServerApp ended. A run that is over has its messages
   deleted; a ServerApp that lives on for LINGER_S after it completed is ended.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from cloud_hub.training.flwr_state import FlowerState, NodeRow, RunRow, canonical_key
from cloud_hub.training.job_folder import (
    FILE_BYTES_MAX,
    STANDING,
    WANTED,
    NodeStanding,
    RunStanding,
    Standing,
    Wanted,
    WantedRun,
)
from cloud_hub.training.process_servers import Access, Servers
from shared.durable_file import write_durably
from shared.errors import ContractError, IsthmusError

log = logging.getLogger(__name__)

TICK_S = 0.25
STANDING_S_MAX = 0.9  # It is written at least this often
LINGER_S = 10.0
TEXT_LENGTH_MAX = 400  # Of `trouble` and `details`
_Attempt = tuple[str, int]


class Steward:
    """See the rules above. One thread; `is_known` from any."""

    def __init__(
        self,
        folder: Path,
        state: FlowerState,
        servers: Servers,
        *,
        device_port: int,
        access: Callable[[str], Access],
    ) -> None:
        """Args: `access` makes of a task's token what its ServerApp is told."""
        self._folder, self._state, self._servers = folder, state, servers
        self._device_port, self._access = device_port, access
        self._wanted: Wanted | None = None
        self._wanted_stamp: tuple[int, int, int] | None = None
        self._trouble = ""
        self._nodes: list[NodeRow] = []
        self._runs: dict[int, RunRow] = {}
        self._keys: frozenset[bytes] = frozenset()
        self._ids: dict[_Attempt, int] = {}  # Every run that Flower has
        self._open: set[int] = set()  # Runs that were not over when last seen
        self._over_s: dict[int, float] = {}  # When a run was first seen over, monotonic
        self._standing: Standing | None = None
        self._is_begun = False

    def is_known(self, key: bytes) -> bool:
        """Return whether a key belongs to a registered node."""
        return key in self._keys

    def tick(self) -> None:
        """See rule 1. Raises nothing of ours: what went wrong is told in the standing."""
        self._trouble = ""
        self._try(self._begin)
        self._try(self._read_wanted)
        if self._is_begun:
            self._try(self._look_after_nodes)
            self._try(self._look_after_runs)
        self._try(self._tell)

    # Reading

    def _begin(self) -> None:
        """Find out what an earlier process left."""
        if self._is_begun:
            return
        self._servers.adopt()
        for run in self._state.runs():
            self._ids[(run.job, run.attempt)] = run.run_id
            if not run.is_finished:
                self._open.add(run.run_id)
        self._is_begun = True

    def _read_wanted(self) -> None:
        path = self._folder / WANTED
        try:
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp != self._wanted_stamp:
                with path.open("rb") as file:
                    self._wanted = msgspec.json.decode(file.read(FILE_BYTES_MAX + 1), type=Wanted)
                self._wanted_stamp = stamp
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._wanted_stamp = None
            raise ContractError("superlink.wanted", f"{WANTED} cannot be read: {error}.") from error

    # Nodes

    def _look_after_nodes(self) -> None:
        self._nodes = self._state.nodes()
        if self._wanted is not None:
            wanted = self._wanted_keys(self._wanted)
            there = {(node.device, node.key) for node in self._nodes}
            gone = [node for node in self._nodes if (node.device, node.key) not in wanted]
            new = sorted(wanted - there)
            # Before the database is asked: a key that is not wanted opens nothing from here on.
            self._keys = frozenset(n.key for n in self._nodes if n not in gone)
            for node in gone:
                self._try(partial(self._state.unregister, node.node_id))
                log.info("node.unregistered", extra={"device": node.device})
            for device, key in new:
                self._try(partial(self._state.register, device, key))
                log.info("node.registered", extra={"device": device})
            if gone or new:
                self._nodes = self._state.nodes()
        self._keys = frozenset(node.key for node in self._nodes)

    def _wanted_keys(self, wanted: Wanted) -> set[tuple[str, bytes]]:
        keys = set()
        for node in wanted.nodes:
            try:
                keys.add((node.device, canonical_key(node.public_key_pem)))
            except ContractError as error:
                self._note(f"{node.device}: {error}")
        return keys

    # Runs

    def _look_after_runs(self) -> None:
        # Which ServerApps live is seen before how runs stand: one that ended in order has said so
        # by the time it is found dead.
        alive = self._servers.alive()
        wanted = {(run.job, run.attempt): run for run in self._wanted.runs} if self._wanted else {}
        ids = {self._ids[attempt] for attempt in wanted if attempt in self._ids}
        ids |= self._open | (alive & set(self._ids.values()))
        self._runs = {run.run_id: run for run in self._state.runs(ids)} if ids else {}
        self._open = {run.run_id for run in self._runs.values() if not run.is_finished}
        for run in self._runs.values():
            order, is_alive = wanted.get((run.job, run.attempt)), run.run_id in alive
            self._try(partial(self._look_after, run, order, is_alive=is_alive))
        for attempt, new in wanted.items():
            if attempt not in self._ids and not self._has_live(new.job, alive):
                self._try(partial(self._start, new))

    def _look_after(self, run: RunRow, order: WantedRun | None, *, is_alive: bool) -> None:
        if run.is_finished:
            self._look_after_finished(run, is_alive=is_alive)
        elif order is None and self._wanted is not None:
            log.info("run.stopped", extra={"job": run.job, "attempt": run.attempt})
            self._servers.end(run.run_id)
            self._state.stop(run)
        elif run.is_pending and is_alive:
            self._servers.end(run.run_id)
        elif run.is_pending and order is not None:
            self._serve(run, order)
        elif not run.is_pending and not is_alive:
            log.warning("run.lost", extra={"job": run.job, "attempt": run.attempt})
            self._state.fail(run, "Its ServerApp is not there any more.")

    def _look_after_finished(self, run: RunRow, *, is_alive: bool) -> None:
        now_s = time.monotonic()
        if run.run_id not in self._over_s:
            self._state.clean_up(run)
            self._over_s[run.run_id] = now_s
        is_lingering = now_s - self._over_s[run.run_id] > LINGER_S
        if is_alive and (is_lingering or not run.is_completed):
            self._servers.end(run.run_id)

    def _has_live(self, job: str, alive: frozenset[int]) -> bool:
        """Return whether an attempt of a Job is not over, or its ServerApp still lives."""
        busy = alive | self._open
        return any(name == job and run_id in busy for (name, _), run_id in self._ids.items())

    def _start(self, order: WantedRun) -> None:
        run_id = self._state.start(order.job, order.attempt)
        self._ids[(order.job, order.attempt)] = run_id
        self._open.add(run_id)
        self._runs |= {run.run_id: run for run in self._state.runs([run_id])}
        log.info("run.started", extra={"job": order.job, "attempt": order.attempt})
        self._serve(self._runs[run_id], order)

    def _serve(self, run: RunRow, order: WantedRun) -> None:
        token = self._state.claim(run)
        if token is None:
            return
        try:
            self._servers.start(run.run_id, Path(order.folder), self._access(token))
        except IsthmusError as error:
            self._state.fail(run, f"Its ServerApp cannot be started: {error}"[:TEXT_LENGTH_MAX])
            raise

    # Telling

    def _tell(self) -> None:
        """Write the standing if it changed or is about to be taken for old."""
        now_ms = int(time.time() * 1000)
        old = self._standing
        new = Standing(
            at_ms=old.at_ms if old is not None else now_ms,
            pid=os.getpid(),
            wanted_revision=self._wanted.revision if self._wanted is not None else 0,
            device_port=self._device_port,
            nodes=tuple(
                NodeStanding(device=n.device, node_id=n.node_id, status=n.status)
                for n in self._nodes
            ),
            runs=tuple(_standing_of(run) for run in self._runs.values()),
            trouble=self._trouble,
        )
        is_fresh = old is not None and 0 <= now_ms - old.at_ms < STANDING_S_MAX * 1000
        if new == old and is_fresh:
            return
        new = msgspec.structs.replace(new, at_ms=now_ms)
        write_durably(self._folder / STANDING, msgspec.json.encode(new), mode=0o600)
        self._standing = new

    def _try(self, act: Callable[[], None]) -> None:
        """Do one thing; one that fails keeps nothing else from being done."""
        try:
            act()
        except IsthmusError as error:
            self._note(str(error))

    def _note(self, text: str) -> None:
        if self._standing is None or text not in self._standing.trouble:
            log.warning("superlink.trouble", extra={"text": text})
        self._trouble = f"{self._trouble} {text}".strip()[:TEXT_LENGTH_MAX]


def _standing_of(run: RunRow) -> RunStanding:
    return RunStanding(
        job=run.job,
        attempt=run.attempt,
        run_id=run.run_id,
        status=run.status,
        sub_status=run.sub_status,
        details=run.details[:TEXT_LENGTH_MAX],
    )
