"""What rollouts cost the hub: a tick, and a Report with and without news, over a real database.

Run: python -m tests.benchmarks.bench_rollouts [--devices N] [--database URL]
Prints one JSON line; times are medians in ms. Devices are simulated, the clock is turned by hand,
messages go through the codec; the database is a SQLite file with synchronous FULL, as the hub has
it, unless --database names another. Parts of a Report's cost are measured alone: a commit of one
changed row, and the verification of one receipt.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from cloud_hub.devices.sql_store import DEVICES as DEVICES_TABLE
from cloud_hub.rollouts.rollout import RolloutState
from cloud_hub.sql_database import Database
from shared.ids import HUB_ID, RolloutId
from shared.link.link import Connected, Delivery
from shared.link.memory_link import MemoryBroker, MemoryLink
from shared.release.receipt import verify_receipt
from shared.wire.codec import Received
from shared.wire.presence import Presence
from shared.wire.report import Report
from shared.wire.topics import hub_filters
from tests.support.fleet_simulator import SimulatedDevice
from tests.support.rollout_bench import MODEL, RolloutBench

DEVICES = 500
REPEATS = 21
FIRST_DEVICE_STEPS_MAX = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--database", default="", help="an empty one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        database = Database(arguments.database or f"sqlite:///{name}/hub.db")
        database.migrate()
        bench = RolloutBench(database, Path(name))
        figures = {"database": database.engine.dialect.name, "devices": arguments.devices}
        figures |= measure(bench, arguments.devices)
        database.close()
    print(json.dumps({"bench": "rollouts", **figures}))


def measure(bench: RolloutBench, count: int) -> dict[str, object]:
    """Return every figure, from one life of a fleet that gets its first release."""
    devices = bench.fleet.enrol(count)
    take_reports(bench)
    figures = {
        "tick_without_rollouts": median_ms(bench.controller.tick),
        "commit": median_ms(lambda: commit_one_row(bench.database)),
    }
    rollout = bench.start(1, waves=["1", "100%"], bake_s=0.0)
    canary = bench.view(rollout).devices[0].device_id
    (first,) = (device for device in devices if device.device_id == canary)
    others = [device for device in devices if device is not first]
    figures["tick_that_moves_all"] = move_all_ms(bench, first, rollout)
    figures["tick_without_news"] = median_ms(bench.controller.tick)
    for kind in ("first", "changed", "changed_again", "new_receipt", "same_again"):
        for device in others:
            device.step()
        figures[f"report_{kind}"] = take_reports(bench)
        bench.clock.advance(1.0)
    assert {device.running(MODEL) for device in others} == {1}
    figures["tick_that_finds_all_proved"] = timed_ms(bench.controller.tick)
    bench.controller.tick()  # The one before found the wave good, this one that it stayed so.
    assert bench.view(rollout).rollout.state is RolloutState.DONE
    figures["verify_receipt"] = median_ms(lambda: verify_one(bench, first))
    return {f"{name}_ms": round(value, 2) for name, value in figures.items()}


def move_all_ms(bench: RolloutBench, first: SimulatedDevice, rollout: RolloutId) -> float:
    """Return what the tick cost in which the wave of everybody began, publishing included.

    It publishes to a broker with nobody else on it: the simulated one asks every session about
    every message, which would cost more than all the rest.
    """
    controller = bench.new_controller(lonely_link(bench))
    controller.tick()
    for _ in range(FIRST_DEVICE_STEPS_MAX):
        first.step()
        take_reports(bench)
        bench.clock.advance(1.0)
        spent_ms = timed_ms(controller.tick)
        if bench.view(rollout).rollout.wave == 1:
            assert controller.pending == 0
            bench.controller.republish_all()
            return spent_ms
    raise AssertionError("the second wave never began")


def lonely_link(bench: RolloutBench) -> MemoryLink:
    """Return a hub's link to a broker that nobody else is connected to."""
    link = MemoryLink(
        MemoryBroker(),
        client=HUB_ID,
        filters=hub_filters(),
        clock=bench.clock,
        with_last_will=False,
    )
    link.start()
    return link


def take_reports(bench: RolloutBench) -> float:
    """Let the hub take what came; return the median ms of a Report."""
    spent_ms = [0.0]
    for arrival in bench.fleet.hub_link.arrivals(wait_s=0):
        match arrival:
            case Connected():
                bench.controller.on_connected()
            case Delivery(received=Received(message=Report()) as received):
                spent_ms.append(timed_ms(partial(bench.controller.on_report, received)))
            case Delivery(received=Received(message=Presence()) as received):
                bench.devices.on_presence(received)
            case _:
                pass
        bench.fleet.hub_link.acknowledge(arrival)
    return statistics.median(spent_ms[1:] or spent_ms)


def commit_one_row(database: Database) -> None:
    """Change one row and commit."""
    with database.begin() as connection:
        one = sa.select(sa.func.min(DEVICES_TABLE.c.device_id)).scalar_subquery()
        change = sa.update(DEVICES_TABLE).where(DEVICES_TABLE.c.device_id == one)
        connection.execute(change.values(uptime_s=time.monotonic_ns()))


def verify_one(bench: RolloutBench, device: SimulatedDevice) -> None:
    """Check the receipt of a device, as the intake does."""
    signed = device.models[MODEL].receipt
    assert signed is not None
    verify_receipt(signed, bench.devices.public_key(device.device_id))


def median_ms(act: Callable[[], object]) -> float:
    """Return the median time of REPEATS calls."""
    return statistics.median(timed_ms(act) for _ in range(REPEATS))


def timed_ms(act: Callable[[], object]) -> float:
    """Return how long one call took."""
    started_s = time.perf_counter()
    act()
    return (time.perf_counter() - started_s) * 1000


if __name__ == "__main__":
    main()
