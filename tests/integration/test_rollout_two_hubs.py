"""Two hub processes over one database at once; hubs that are killed in the middle."""

import threading
from pathlib import Path

import pytest

from cloud_hub.rollouts.rollout import DeviceState, RolloutState
from cloud_hub.sql_database import Database
from shared.errors import IsthmusError, RefusedError, TransientError
from shared.ids import DeviceId
from shared.link.memory_link import MemoryLink
from shared.wire.target import Target
from shared.wire.topics import Message
from tests.support.fleet_simulator import Behaviour
from tests.support.rollout_bench import MODEL, RolloutBench

pytestmark = pytest.mark.slow
DONE, UNDONE = RolloutState.DONE, RolloutState.UNDONE


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


class DyingLink:
    """A link in whose `publish` the process dies, after so many Targets got through."""

    def __init__(self, link: MemoryLink, *, published_max: int) -> None:
        self._link, self._left = link, published_max
        self.is_connected = True

    def publish(self, device: DeviceId, message: Message) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        self._link.publish(device, message)


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> RolloutBench:
    return RolloutBench(database, tmp_path)


def at_once(*steps: object) -> list[BaseException]:
    """Run every step in a thread of its own, starting together; return what they raised."""
    barrier = threading.Barrier(len(steps))
    raised: list[BaseException] = []

    def run(step: object) -> None:
        assert callable(step)
        barrier.wait()
        try:
            step()
        except IsthmusError as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("behaviour", [Behaviour.GOOD, Behaviour.FAILING])
def test_two_hubs_that_tick_at_once_do_everything_once(
    bench: RolloutBench, behaviour: Behaviour
) -> None:
    devices = bench.fleet.enrol(6)
    bench.settle_first()
    bench.fleet.behave({d.device_id: behaviour for d in devices})
    before = {d.device_id: d.revision for d in devices}
    other = bench.new_controller()
    rollout_id = bench.start(2, waves=["2", "100%"])
    for _ in range(60):
        for device in devices:
            device.step()
        bench.fleet.hear(bench.controller)
        assert at_once(bench.controller.tick, other.tick) == []
        bench.clock.advance(5.0)
        if bench.view(rollout_id).rollout.state in (DONE, UNDONE):
            break
    codes = bench.codes(rollout_id)
    by_device: dict[DeviceId, list[str]] = {}
    for entry in bench.controller.timeline(rollout_id):
        if entry.device_id is not None:
            by_device.setdefault(entry.device_id, []).append(entry.code)
    for told in by_device.values():
        assert len(told) == len(set(told)), told
    if behaviour is Behaviour.GOOD:
        assert bench.view(rollout_id).rollout.state is DONE
        assert codes == [
            "rollout.started", "wave.good", "wave.passed", "wave.good", "rollout.done",
        ]  # fmt: skip
        assert {d.revision - before[d.device_id] for d in devices} == {1}
    else:
        assert bench.view(rollout_id).rollout.state is UNDONE
        assert codes == ["rollout.started", "wave.failed", "rollout.undone"]
        assert sorted(d.revision - before[d.device_id] for d in devices) == [0, 0, 0, 0, 2, 2]


def test_of_two_rollouts_started_at_once_on_shared_devices_one_is_refused(
    bench: RolloutBench,
) -> None:
    bench.fleet.enrol(4)
    bench.settle_first()
    other = bench.new_controller()
    refused = at_once(
        lambda: bench.controller.start(bench.order(2)), lambda: other.start(bench.order(3))
    )
    assert [error.code for error in refused if isinstance(error, RefusedError)] == ["rollout.busy"]
    unfinished = [r for r in bench.controller.list() if r.state is RolloutState.RUNNING]
    assert len(unfinished) == 1


def test_two_people_who_act_at_once_get_one_result_each(bench: RolloutBench) -> None:
    bench.fleet.enrol(2)
    bench.settle_first()
    rollout_id = bench.start(2)
    other = bench.new_controller()
    refused = at_once(
        lambda: bench.controller.undo(rollout_id, by="ada"),
        lambda: other.undo(rollout_id, by="bob"),
    )
    assert [getattr(error, "code", "") for error in refused] == ["rollout.cannot_undo"]
    assert bench.codes(rollout_id).count("rollout.undoing") == 1


@pytest.mark.parametrize("published_max", range(4))
def test_a_hub_killed_while_it_publishes_leaves_nothing_undone(
    bench: RolloutBench, published_max: int
) -> None:
    bench.fleet.enrol(4)
    bench.settle_first()
    dying = DyingLink(bench.fleet.hub_link, published_max=published_max)
    bench.controller = bench.new_controller(dying)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        bench.start(2, waves=["100%"], bake_s=0.0)
    rollout_id = bench.controller.list()[0].rollout_id
    assert set(bench.states(rollout_id).values()) == {DeviceState.TARGETED}
    bench.restart_hub()
    bench.run_until(rollout_id, DONE)
    assert set(bench.fleet.running(MODEL).values()) == {2}


def test_a_hub_killed_before_its_commit_has_changed_nothing(
    bench: RolloutBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fleet.enrol(2)
    bench.settle_first()
    rollout_id = bench.start(2, waves=["1", "100%"], bake_s=0.0)
    before = bench.states(rollout_id)

    def die(*_args: object, **_kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        # The last write of a plan's transaction.
        patch.setattr("cloud_hub.rollouts.sql_snapshots.add_entries", die)
        with pytest.raises(Killed):
            bench.step(10)
    assert bench.states(rollout_id) == before
    bench.run_until(rollout_id, DONE)


def test_a_full_link_delays_targets_and_loses_none(bench: RolloutBench) -> None:
    bench.fleet.enrol(5)
    bench.settle_first()

    class FullLink(DyingLink):
        def publish(self, device: DeviceId, message: Message) -> None:
            assert isinstance(message, Target)
            if self._left == 0:
                raise TransientError("link.full", "Full.")
            self._left -= 1
            self._link.publish(device, message)

    bench.controller = bench.new_controller(FullLink(bench.fleet.hub_link, published_max=2))  # type: ignore[arg-type]
    rollout_id = bench.start(2, waves=["100%"], bake_s=0.0)
    assert bench.controller.pending == 3
    bench.controller = bench.new_controller()
    bench.controller.tick()
    assert bench.controller.pending == 0
    bench.run_until(rollout_id, DONE)
