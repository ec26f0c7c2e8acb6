"""A disk that is full, on the device and at the hub: both go on, say so, and recover."""

from pathlib import Path

import pytest

from tests.support.fleet_story import (
    STEP_S,
    check_records,
    decided_items,
    decisions_count,
    drained,
    failure_codes,
    presence,
    receipts,
    wait_for,
    wait_online,
)
from tests.support.real_fleet import RealAgent, RealHub
from tests.support.small_disk import small_disk
from tests.support.tiny_releases import Kind
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
PADDING_BYTES = 300_000


def test_a_device_whose_disk_is_full_goes_on_deciding_says_so_and_recovers(tmp_path: Path) -> None:
    hub = RealHub(tmp_path)
    with small_disk(tmp_path / "disk", size_bytes=8 << 20) as disk:
        try:
            hub.start()
            agent = RealAgent("one", tmp_path, hub, state=disk.folder / "one")
            agent.start()
            wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")
            version = hub.add_release(Kind.BETTER, padding_bytes=PADDING_BYTES)

            disk.fill()
            rollout = hub.roll_out(version)
            wait_for(hub, rollout, "undone")
            assert failure_codes(hub, rollout) <= {"disk.full", "disk.write_failed"}
            hub.check_all()
            wait_until(lambda: "outbox.disk" in agent.log.read_text(), seconds_max=STEP_S)
            assert presence(hub, agent) == "online"

            disk.empty()
            wait_until(drained(agent), seconds_max=STEP_S)
            wait_for(hub, hub.roll_out(version), "done")
            assert receipts(hub, agent)[0] == (version, "settled")
            wait_until(drained(agent), seconds_max=STEP_S)
            agent.stop()
            check_records(hub, [agent])
            items = decided_items(hub, agent)
            assert items == list(range(items[0], items[0] + len(items))), "items were lost"
        finally:
            hub.close()


def test_a_hub_whose_disk_is_full_says_so_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=16 << 20) as disk:
        hub = RealHub(tmp_path, state=disk.folder / "hub")
        try:
            hub.start()
            agent = RealAgent("one", tmp_path, hub)
            agent.start()
            wait_for(hub, hub.roll_out(hub.add_release(Kind.GOOD)), "done")
            wait_until(drained(agent), seconds_max=STEP_S)

            disk.fill()
            wait_until(lambda: not hub.health()["is_good"], seconds_max=STEP_S)
            parts = {part["name"]: part for part in hub.health()["parts"]}
            assert not parts["database"]["is_good"]
            assert "full" in parts["database"]["detail"]
            wait_until(lambda: not drained(agent, rows_max=300)(), seconds_max=STEP_S)
            hub.check_all()

            disk.empty()
            wait_until(lambda: hub.health()["is_good"], seconds_max=STEP_S)
            wait_until(drained(agent), seconds_max=STEP_S)
            wait_online(hub, agent)
            before = decisions_count(hub)
            wait_until(lambda: decisions_count(hub) > before, seconds_max=STEP_S)
            wait_for(hub, hub.roll_out(hub.add_release(Kind.BETTER)), "done")
            agent.stop()
            check_records(hub, [agent])
        finally:
            hub.close()
