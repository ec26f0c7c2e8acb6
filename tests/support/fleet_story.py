"""What tests of whole processes wait for and check: rollouts, presence, records exactly once."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cloud_hub.telemetry.sql_store import TABLES, streams
from shared.wire.records import DecisionRecord
from shared.wire.report import UpdateState
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.waiting import wait_until

STEP_S = 60.0
ENDED = frozenset({"done", "undone", "held", "cancelled"})


def sentences(hub: RealHub, rollout: str) -> str:
    """Return what the hub tells of a rollout."""
    entries = hub.get(f"/rollouts/{rollout}/timeline")["entries"]
    return "\n".join(entry["sentence"] for entry in entries)


def wait_for(hub: RealHub, rollout: str, state: str, *, seconds_max: float = STEP_S) -> None:
    """Wait until a rollout is in `state`; fail, with its timeline, when it ends in another."""

    def is_there() -> bool:
        hub.check_all()
        found = hub.rollout_state(rollout)
        assert found == state or found not in ENDED, f"{found}\n{sentences(hub, rollout)}"
        return found == state

    try:
        wait_until(is_there, seconds_max=seconds_max)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{sentences(hub, rollout)}") from error


def wait_for_end(hub: RealHub, rollout: str) -> str:
    """Wait until a rollout is done or undone; return which."""
    return wait_until(
        lambda: (found := hub.rollout_state(rollout)) in {"done", "undone"} and found,
        seconds_max=STEP_S,
    )


def presence(hub: RealHub, agent: RealAgent) -> str:
    """Return whether the hub believes that the agent is there."""
    return str(hub.get(f"/devices/{agent.device}")["presence"])


def wait_online(hub: RealHub, agent: RealAgent, *, seconds_max: float = STEP_S) -> None:
    """Wait until the agent says that its link is up, and the hub that the agent is there."""
    wait_until(
        lambda: agent.is_connected and presence(hub, agent) == "online", seconds_max=seconds_max
    )


def is_in(agent: RealAgent, state: UpdateState) -> bool:
    """Return whether the agent's disk says that "tones" is in this state of an update."""
    journal = agent.journal()
    return journal is not None and journal.state is state


def settled_version(agent: RealAgent) -> int:
    """Return the version that the agent's disk says is settled; 0 for none."""
    journal = agent.journal()
    return journal.settled.version if journal is not None and journal.settled is not None else 0


def receipts(hub: RealHub, agent: RealAgent) -> list[tuple[int, str]]:
    """Return (version, outcome) of every receipt that the hub has verified, newest first."""
    found = hub.get(f"/devices/{agent.device}/receipts")["receipts"]
    return [(receipt["version"], receipt["outcome"]) for receipt in found]


def failure_codes(hub: RealHub, rollout: str) -> set[str]:
    """Return why devices failed in a rollout."""
    devices = hub.get(f"/rollouts/{rollout}")["devices"]
    return {device["failure"]["code"] for device in devices if device["failure"]}


def decisions_count(hub: RealHub) -> int:
    """Return how many decisions the hub's database holds, asked past the hub."""
    query = sa.select(sa.func.count()).select_from(TABLES[DecisionRecord])
    return int(_ask(hub, query)[0][0])


@dataclass(frozen=True)
class Held:
    """A record in the hub's database."""

    stream: str
    sequence: int
    at_ms: int
    received_ms: int


def records(hub: RealHub, agent: RealAgent) -> list[Held]:
    """Return every record of a device that the database holds, by sequence."""
    held: list[Held] = []
    for table in TABLES.values():
        columns = (table.c[name] for name in Held.__annotations__)
        query = sa.select(*columns).where(table.c.device_id == agent.device)
        held += [Held(*row) for row in _ask(hub, query)]
    return sorted(held, key=lambda each: each.sequence)


def decided_items(hub: RealHub, agent: RealAgent) -> list[int]:
    """Return the numbers of the items that an agent has decided, in order of its telling."""
    table = TABLES[DecisionRecord]
    query = sa.select(table.c.item).where(table.c.device_id == agent.device)
    return [int(row[0]) for row in _ask(hub, query.order_by(table.c.sequence))]


def check_records(hub: RealHub, agents: list[RealAgent], *, dropped_max: int = 0) -> None:
    """Check that of every stream the database holds each sequence once, and none is missing.

    The agents have been stopped: what the hub does not have is still in their outboxes.
    """
    for agent in agents:
        assert not agent.is_running
        held = [(record.stream, record.sequence) for record in records(hub, agent)]
        assert len(held) == len(set(held)), "a record is there twice"
        stream, dropped, last, waiting = _outbox(agent)
        assert dropped <= dropped_max
        told = _ask(
            hub,
            sa.select(streams.c.stream, streams.c.watermark, streams.c.missing).where(
                streams.c.device_id == agent.device
            ),
        )
        watermarks = {row[0]: (row[1], row[2]) for row in told}
        assert set(watermarks) == {stream}, "a file that nothing is wrong with began a new stream"
        watermark, missing = watermarks[stream]
        assert missing <= dropped
        sequences = {sequence for _, sequence in held}
        assert len(sequences) == watermark - missing
        assert max(sequences) == watermark
        upwards = [sequence for sequence in waiting if sequence > watermark]
        assert len(upwards) == last - watermark, "neither at the hub nor in the outbox"


def _outbox(agent: RealAgent) -> tuple[str, int, int, list[int]]:
    """Return the outbox's stream, dropped count, last sequence, and the sequences in it."""
    connection = sqlite3.connect(agent.state / "outbox.db")
    try:
        stream, dropped = connection.execute("SELECT stream, dropped FROM state").fetchone()
        (last,) = connection.execute("SELECT seq FROM sqlite_sequence").fetchone()
        rows = connection.execute("SELECT sequence FROM records ORDER BY sequence").fetchall()
    finally:
        connection.close()
    return str(stream), int(dropped), int(last), [int(row[0]) for row in rows]


def _ask(hub: RealHub, query: "sa.Select[Any]") -> list[Any]:
    engine = sa.create_engine(hub.database)
    try:
        with engine.connect() as connection:
            return list(connection.execute(query))
    finally:
        engine.dispose()


def drained(agent: RealAgent, *, rows_max: int = 50) -> Callable[[], bool]:
    """Return a condition: hardly anything waits in the agent's outbox."""
    return lambda: (agent.status() or {}).get("outbox_rows", 1 << 30) < rows_max
