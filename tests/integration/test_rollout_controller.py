"""Rollouts over a real database, with simulated devices on a clock turned by hand."""

import random
from pathlib import Path

import pytest

from cloud_hub.rollouts.order import FailureLimit
from cloud_hub.rollouts.rollout import DeviceState, RolloutState
from cloud_hub.sql_database import Database
from shared.errors import RefusedError
from shared.ids import DeviceId
from tests.support.fleet_simulator import LIARS, Behaviour
from tests.support.rollout_bench import BAKE_S, DEADLINE_S, MODEL, STEP_S, RolloutBench

pytestmark = pytest.mark.slow
HELD, DONE, UNDONE = RolloutState.HELD, RolloutState.DONE, RolloutState.UNDONE


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> RolloutBench:
    return RolloutBench(database, tmp_path)


def test_thirty_good_devices_are_all_updated_wave_by_wave(bench: RolloutBench) -> None:
    bench.fleet.enrol(30)
    bench.settle_first()
    rollout_id = bench.start(2)
    assert bench.view(rollout_id).rollout.wave_limits == (1, 7, 30)
    most_by_wave: dict[int, int] = {}
    while bench.view(rollout_id).rollout.state is RolloutState.RUNNING:
        bench.step()
        view = bench.view(rollout_id)
        moved = sum(d.state is not DeviceState.WAITING for d in view.devices)
        most_by_wave[view.rollout.wave] = max(moved, most_by_wave.get(view.rollout.wave, 0))
    view = bench.view(rollout_id)
    assert view.rollout.state is DONE
    assert most_by_wave == {0: 1, 1: 7, 2: 30}
    assert {d.state for d in view.devices} == {DeviceState.UPDATED}
    assert set(bench.fleet.running(MODEL).values()) == {2}
    assert bench.controller.count_receipts(rollout_id) == 30
    assert bench.codes(rollout_id)[0] == "rollout.started"
    assert bench.codes(rollout_id)[-1] == "rollout.done"
    assert bench.controller.pending == 0


def test_a_failing_release_undoes_itself_and_moves_only_those_who_had_it(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(12)
    bench.settle_first()
    bench.fleet.behave({d.device_id: Behaviour.FAILING for d in devices})
    before = {d.device_id: len(d.targets) for d in devices}
    rollout_id = bench.start(2, waves=["2", "100%"])
    bench.run_until(rollout_id, UNDONE)
    assert set(bench.fleet.running(MODEL).values()) == {1}
    states = bench.states(rollout_id)
    assert sorted(states.values()) == [DeviceState.UNDONE] * 2 + [DeviceState.WAITING] * 10
    for device in devices:
        told = len(device.targets) - before[device.device_id]
        assert told == (2 if states[device.device_id] is DeviceState.UNDONE else 0)
    entries = bench.controller.timeline(rollout_id)
    failed = next(entry for entry in entries if entry.code == "wave.failed")
    assert failed.measured is not None
    assert failed.limit is not None
    assert failed.measured > failed.limit
    canary = bench.view(rollout_id).devices[0]
    assert canary.failure is not None
    assert canary.failure.code == "trial.worse"
    told = "\n".join(bench.controller.why(canary.device_id, MODEL))
    assert "says that it runs tones version 1" in told
    assert "trial.worse" in told
    assert "reproduced 4 golden items" in told
    assert "the limit is 10.0%" in told
    waiting = next(d for d in devices if states[d.device_id] is DeviceState.WAITING)
    told = "\n".join(bench.controller.why(waiting.device_id, MODEL))
    assert "has not reached this device, which is of wave 2" in told or "of wave 3" in told


def test_one_failure_under_the_limit_does_not_stop_a_wave(bench: RolloutBench) -> None:
    devices = bench.fleet.enrol(20)
    bench.settle_first()
    rollout_id = bench.start(2, waves=["100%"], devices=tuple(d.device_id for d in devices))
    devices[3].behaviour = Behaviour.FAILING
    bench.run_until(rollout_id, DONE)
    assert bench.states(rollout_id)[devices[3].device_id] is DeviceState.FAILED


def test_without_undo_a_failed_wave_holds_until_a_person_resumes(bench: RolloutBench) -> None:
    devices = bench.fleet.enrol(3)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    devices[0].behaviour = Behaviour.REFUSING
    rollout_id = bench.start(2, devices=ids, waves=["1", "100%"], undo_on_failure=False)
    held = bench.run_until(rollout_id, HELD)
    assert held.hold_code == "wave.failed"
    bench.step(10)
    assert bench.view(rollout_id).rollout.state is HELD
    bench.controller.resume(rollout_id, why="that one is special", by="ada")
    bench.run_until(rollout_id, DONE)
    assert bench.fleet.running(MODEL) == {ids[0]: 1, ids[1]: 2, ids[2]: 2}


def test_a_silent_wave_holds_and_says_so_and_a_late_answer_lets_it_go_on(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(4)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    devices[0].behaviour = Behaviour.SILENT
    rollout_id = bench.start(2, devices=ids, waves=["1", "100%"])
    held = bench.run_until(rollout_id, HELD)
    assert held.hold_code == "wave.silent"
    assert bench.states(rollout_id)[ids[0]] is DeviceState.UNKNOWN
    silent = next(e for e in bench.controller.timeline(rollout_id) if e.code == "wave.silent")
    assert (silent.measured, silent.limit) == (1.0, 0.0)
    assert "did not answer within 120 s" in silent.text
    bench.step(50)
    assert bench.view(rollout_id).rollout.state is HELD
    assert bench.fleet.running(MODEL)[ids[1]] == 1
    devices[0].behaviour = Behaviour.GOOD
    devices[0].wake()
    bench.run_until(rollout_id, DONE)
    assert set(bench.fleet.running(MODEL).values()) == {2}
    assert "wave.answered" in bench.codes(rollout_id)


def test_a_hold_by_a_person_does_not_end_by_itself(bench: RolloutBench) -> None:
    bench.fleet.enrol(3)
    bench.settle_first()
    rollout_id = bench.start(2, waves=["1", "100%"])
    bench.controller.hold(rollout_id, why="night shift", by="ada")
    bench.step(60)
    view = bench.view(rollout_id)
    assert (view.rollout.state, view.rollout.wave) == (HELD, 0)
    entry = next(e for e in bench.controller.timeline(rollout_id) if e.code == "rollout.held")
    assert (entry.by, entry.text) == ("ada", "night shift")
    bench.controller.resume(rollout_id, by="ada")
    bench.run_until(rollout_id, DONE)


def test_resuming_without_the_silent_ones_goes_on_and_they_catch_up_later(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(5)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    devices[1].behaviour = Behaviour.SILENT
    rollout_id = bench.start(2, devices=ids, waves=["2", "100%"])
    bench.run_until(rollout_id, HELD)
    bench.controller.resume(rollout_id, why="it is in repair", by="ada", excuse_silent=True)
    bench.run_until(rollout_id, DONE)
    assert bench.fleet.running(MODEL)[ids[1]] == 1
    devices[1].behaviour = Behaviour.GOOD
    devices[1].wake()
    bench.step(5)
    assert bench.fleet.running(MODEL)[ids[1]] == 2
    assert bench.states(rollout_id)[ids[1]] is DeviceState.UPDATED


@pytest.mark.parametrize("lie", sorted(LIARS))
def test_a_device_without_a_receipt_that_holds_never_counts(
    bench: RolloutBench, lie: Behaviour
) -> None:
    devices = bench.fleet.enrol(2)
    bench.settle_first()
    liar = devices[0].device_id
    devices[0].behaviour = lie
    rollout_id = bench.start(2, devices=(liar, devices[1].device_id), waves=["1", "100%"])
    held = bench.run_until(rollout_id, HELD)
    assert held.hold_code == "wave.silent"
    assert bench.states(rollout_id)[liar] is DeviceState.UNKNOWN
    assert bench.controller.count_receipts(rollout_id) == (
        1 if lie in (Behaviour.MUTE_STATE, Behaviour.NEVER_SETTLED) else 0
    )
    codes = [e.code for e in bench.controller.timeline(rollout_id) if e.device_id == liar]
    has_bad_receipt = lie not in (
        Behaviour.NO_RECEIPT,
        Behaviour.MUTE_STATE,
        Behaviour.NEVER_SETTLED,
    )
    assert codes.count("receipt.invalid") == (1 if has_bad_receipt else 0)
    assert bench.fleet.running(MODEL)[devices[1].device_id] == 1


def test_a_flapping_device_keeps_its_wave_from_passing_and_ends_in_a_hold_for_a_person(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(2)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    devices[0].behaviour = Behaviour.FLAPPING
    rollout_id = bench.start(2, devices=ids, waves=["1", "100%"])
    bench.step(300)
    rollout = bench.view(rollout_id).rollout
    assert (rollout.state, rollout.wave, rollout.hold_code) == (HELD, 0, "wave.unsteady")
    assert bench.fleet.running(MODEL)[ids[1]] == 1


def test_a_slow_device_is_unknown_at_its_deadline_though_it_talks(bench: RolloutBench) -> None:
    devices = bench.fleet.enrol(1)
    bench.settle_first()
    devices[0].behaviour = Behaviour.SLOW
    rollout_id = bench.start(2)
    bench.run_until(rollout_id, HELD)
    told = "\n".join(bench.controller.why(devices[0].device_id, MODEL))
    assert "No proof and no failure within 120 s. Its last report says: version 1, trial" in told


def test_the_hub_is_killed_at_every_step_and_the_rollout_still_ends_well(
    bench: RolloutBench,
) -> None:
    bench.fleet.enrol(6)
    bench.settle_first()
    rollout_id = bench.start(2, waves=["1", "50%", "100%"])
    for _ in range(100):
        bench.restart_hub()
        bench.step()
        if bench.view(rollout_id).rollout.state is DONE:
            break
    assert bench.view(rollout_id).rollout.state is DONE
    assert set(bench.fleet.running(MODEL).values()) == {2}


def test_a_hub_that_dies_between_writing_and_publishing_publishes_at_its_next_start(
    bench: RolloutBench,
) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    bench.fleet.hub_link.stop()  # Nothing is published: as if killed right after the commit.
    rollout_id = bench.start(2, bake_s=0.0)
    assert bench.controller.pending == 1
    bench.clock.advance(STEP_S)
    device.step()
    assert device.running(MODEL) == 1
    bench.restart_hub()
    bench.run_until(rollout_id, DONE)
    assert device.running(MODEL) == 2


def test_a_broker_that_forgot_its_retained_messages_gets_them_again(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    device.behaviour = Behaviour.SILENT
    rollout_id = bench.start(2, bake_s=0.0)
    bench.fleet.lose_broker_memory()
    device.behaviour = Behaviour.GOOD
    bench.fleet.hear(bench.controller)  # The hub's link has connected again.
    bench.controller.tick()
    device.step()
    assert [release.version for release in device.targets[-1].releases] == [2]
    bench.run_until(rollout_id, DONE)
    assert device.running(MODEL) == 2


def test_a_hub_that_starts_publishes_every_target_again(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    bench.step()
    bench.fleet.lose_broker_memory()
    list(bench.fleet.hub_link.arrivals(wait_s=0))  # Nobody tells the new process of the connection.
    bench.controller = bench.new_controller()
    bench.controller.tick()
    device.revision = 0
    device.step()
    assert [release.version for release in device.targets[-1].releases] == [1]
    bench.controller.tick()
    assert bench.controller.pending == 0


def test_a_target_that_got_lost_is_published_again_when_a_report_shows_it(
    bench: RolloutBench,
) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    rollout_id = bench.start(2, bake_s=0.0)
    list(device.link.arrivals(wait_s=0))  # Lost: never taken, and never retained.
    bench.fleet.broker._retained.clear()
    bench.run_until(rollout_id, DONE)
    assert device.running(MODEL) == 2


def test_a_hub_restored_from_an_old_copy_still_reaches_its_devices(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    device.revision = 41  # It has taken up what this database knows nothing of.
    device.report()
    bench.fleet.hear(bench.controller)
    rollout_id = bench.start(1, bake_s=0.0)
    device.step()
    assert device.revision == 42  # At once: not only after the device has complained.
    bench.run_until(rollout_id, DONE)
    device.revision = 90
    bench.step()
    assert bench.controller.pending == 0
    bench.step()
    assert device.revision == 91


def test_a_device_revoked_in_its_wave_counts_no_more_and_another_takes_its_place(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(4)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    devices[0].behaviour = Behaviour.SILENT
    rollout_id = bench.start(2, devices=ids, waves=["1", "100%"])
    bench.step(2)
    bench.devices.revoke(ids[0])
    devices[0].link.stop()
    bench.step()
    states = bench.states(rollout_id)
    assert states[ids[0]] is DeviceState.REMOVED
    assert states[ids[1]] is not DeviceState.WAITING
    assert states[ids[2]] is DeviceState.WAITING
    bench.run_until(rollout_id, DONE)
    assert {d: v for d, v in bench.fleet.running(MODEL).items() if d != ids[0]} == dict.fromkeys(
        ids[1:], 2
    )


def test_a_rollout_whose_every_device_is_revoked_holds(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    device.behaviour = Behaviour.SILENT
    rollout_id = bench.start(2)
    bench.devices.revoke(device.device_id)
    bench.step(2)
    rollout = bench.view(rollout_id).rollout
    assert (rollout.state, rollout.hold_code) == (HELD, "wave.empty")


def test_a_finished_rollout_can_be_undone_and_each_goes_back_to_what_it_ran(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(3)
    ids = tuple(d.device_id for d in devices)
    first = bench.start(1, devices=ids[:2], waves=["100%"], bake_s=0.0)
    bench.run_until(first, DONE)
    devices[2].honest_up_to = 2
    second = bench.start(2, devices=ids[2:], waves=["100%"], bake_s=0.0)
    bench.run_until(second, DONE)
    third = bench.start(3, waves=["100%"], bake_s=0.0)
    bench.run_until(third, DONE)
    bench.controller.undo(third, why="colours are wrong", by="ada")
    bench.run_until(third, UNDONE)
    assert bench.fleet.running(MODEL) == {ids[0]: 1, ids[1]: 1, ids[2]: 2}


def test_undoing_waits_for_a_silent_device_and_says_so(bench: RolloutBench) -> None:
    devices = bench.fleet.enrol(2)
    bench.settle_first()
    rollout_id = bench.start(2, waves=["100%"])
    bench.step(6)
    devices[0].behaviour = Behaviour.SILENT
    bench.controller.undo(rollout_id, by="ada")
    bench.step(int(DEADLINE_S / STEP_S) * 3)
    assert bench.view(rollout_id).rollout.state is RolloutState.UNDOING
    codes = [e.code for e in bench.controller.timeline(rollout_id)]
    assert codes.count("device.not_back") == 1
    devices[0].behaviour = Behaviour.GOOD
    devices[0].wake()
    bench.run_until(rollout_id, UNDONE)
    assert set(bench.fleet.running(MODEL).values()) == {1}


def test_a_first_release_that_fails_is_withdrawn_and_who_settled_it_keeps_it(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(3)
    ids = tuple(d.device_id for d in devices)
    devices[1].honest_up_to = devices[2].honest_up_to = 0
    devices[1].behaviour = Behaviour.FAILING
    devices[2].behaviour = Behaviour.SLOW
    rollout_id = bench.start(1, devices=ids, waves=["100%"])
    bench.run_until(rollout_id, UNDONE)
    assert bench.fleet.running(MODEL) == {ids[0]: 1, ids[1]: 0, ids[2]: 0}
    assert bench.states(rollout_id) == {
        ids[0]: DeviceState.UPDATED,
        ids[1]: DeviceState.UNDONE,
        ids[2]: DeviceState.UNDONE,
    }


def test_cancelling_leaves_who_proved_it_and_sends_back_the_rest(bench: RolloutBench) -> None:
    devices = bench.fleet.enrol(3)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    devices[1].behaviour = Behaviour.SLOW
    rollout_id = bench.start(2, devices=ids, waves=["2", "100%"])
    bench.step(8)
    bench.controller.cancel(rollout_id, why="enough", by="ada")
    bench.step(8)
    assert bench.fleet.running(MODEL) == {ids[0]: 2, ids[1]: 1, ids[2]: 1}
    assert bench.states(rollout_id) == {
        ids[0]: DeviceState.UPDATED,
        ids[1]: DeviceState.UNDONE,
        ids[2]: DeviceState.WAITING,
    }
    assert devices[1].models[MODEL].attempt is None


def test_a_second_rollout_of_the_model_is_refused_while_they_share_devices(
    bench: RolloutBench,
) -> None:
    devices = bench.fleet.enrol(3)
    bench.settle_first()
    ids = tuple(d.device_id for d in devices)
    first = bench.start(2, devices=ids[:2])
    with pytest.raises(RefusedError) as refused:
        bench.start(3)
    assert refused.value.code == "rollout.busy"
    assert first in refused.value.message
    assert "Undo or cancel" in refused.value.remedy
    apart = bench.start(3, devices=ids[2:])
    bench.run_until(first, DONE)
    bench.run_until(apart, DONE)
    assert bench.fleet.running(MODEL) == {ids[0]: 2, ids[1]: 2, ids[2]: 3}


def test_two_models_on_one_device_stand_in_one_target(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    rollout = bench.controller.start(
        bench.order(1, model="other", waves=["100%"], bake_s=0.0), by="ada"
    )
    bench.run_until(rollout.rollout_id, DONE)
    assert [(r.model, r.version) for r in device.targets[-1].releases] == [
        ("other", 1),
        (MODEL, 1),
    ]
    told = "\n".join(bench.controller.why(device.device_id))
    assert "runs other version 1" in told
    assert "runs tones version 1" in told


def test_a_done_rollout_keeps_absorbing_devices_that_join_its_group(bench: RolloutBench) -> None:
    bench.fleet.enrol(1, groups=("yard",))
    rollout_id = bench.start(1, group="yard", keeps_absorbing=True, bake_s=0.0)
    bench.run_until(rollout_id, DONE)
    late = bench.fleet.enrol(1, groups=("yard",))[0]
    stranger = bench.fleet.enrol(1, groups=("gate",))[0]
    bench.step(8)
    assert (late.running(MODEL), stranger.running(MODEL)) == (1, 0)
    assert bench.states(rollout_id)[late.device_id] is DeviceState.UPDATED
    newer = bench.start(2, group="yard", bake_s=0.0)
    bench.run_until(newer, DONE)
    later = bench.fleet.enrol(1, groups=("yard",))[0]
    bench.step(8)
    assert later.running(MODEL) == 0  # The newest one does not absorb.


def test_a_wave_with_too_little_traffic_holds(bench: RolloutBench) -> None:
    bench.fleet.enrol(1)
    bench.settle_first()
    rollout_id = bench.start(2, bake_items_min=50)
    held = bench.run_until(rollout_id, HELD)
    assert held.hold_code == "wave.low_traffic"
    entry = next(e for e in bench.controller.timeline(rollout_id) if e.code == "wave.low_traffic")
    assert (entry.measured, entry.limit) == (0, 50)


def test_what_ran_on_a_device_at_a_time_is_known_from_its_receipts(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    before_ms = int(bench.clock.now_s() * 1000)
    bench.step()
    bench.settle_first()
    between_ms = int(bench.clock.now_s() * 1000)
    bench.step()
    bench.run_until(bench.start(2, bake_s=0.0), DONE)
    after_ms = int(bench.clock.now_s() * 1000)

    def versions(at_ms: int) -> list[int]:
        return [r.release.version for r in bench.controller.releases_at(device, at_ms)]

    assert (versions(before_ms), versions(between_ms), versions(after_ms)) == ([], [1], [2])


def test_a_wave_bakes_before_the_next_begins(bench: RolloutBench) -> None:
    bench.fleet.enrol(2)
    bench.settle_first()
    rollout_id = bench.start(2, waves=["1", "100%"])
    bench.run_until(rollout_id, DONE)
    entries = [e for e in bench.controller.timeline(rollout_id) if e.device_id is None]
    good_ms = next(e.at_ms for e in entries if e.code == "wave.good")
    passed_ms = next(e.at_ms for e in entries if e.code == "wave.passed")
    assert passed_ms - good_ms >= BAKE_S * 1000


def test_orders_are_refused_with_the_reason(bench: RolloutBench) -> None:
    with pytest.raises(RefusedError) as refused:
        bench.start(1)
    assert refused.value.code == "rollout.no_devices"
    device = bench.fleet.enrol(1)[0].device_id
    with pytest.raises(RefusedError) as refused:
        bench.start(9)
    assert refused.value.code == "release.unknown"
    with pytest.raises(RefusedError) as refused:
        bench.start(1, devices=(device, DeviceId("dev-gone")))
    assert refused.value.code == "rollout.device_not_active"
    assert "dev-gone" in refused.value.message
    rollout_id = bench.start(1)
    with pytest.raises(RefusedError) as refused:
        bench.controller.resume(rollout_id)
    assert refused.value.code == "rollout.cannot_resume"


@pytest.mark.parametrize("seed", range(4))
def test_a_fleet_of_every_kind_never_gets_more_than_its_waves_or_done_without_proof(
    bench: RolloutBench, seed: int
) -> None:
    chance = random.Random(seed)
    devices = bench.fleet.enrol(8)
    bench.settle_first()
    kinds = [Behaviour.GOOD] * 12 + list(Behaviour)
    bench.fleet.behave({d.device_id: chance.choice(kinds) for d in devices})
    limit = FailureLimit(share_max=chance.choice([0.1, 0.6]))
    rollout_id = bench.start(2, failure_limit=limit, unknown_share_max=chance.choice([0.0, 0.4]))
    for _ in range(90):
        if chance.random() < 0.1:
            bench.restart_hub()
        if chance.random() < 0.05:
            device = chance.choice(devices)
            device.behaviour = chance.choice(kinds)
            device.wake()
        if chance.random() < 0.05 and bench.view(rollout_id).rollout.state is HELD:
            bench.controller.resume(rollout_id, excuse_silent=chance.random() < 0.5)
        bench.step()
        view = bench.view(rollout_id)
        counted = [
            d for d in view.devices if not d.is_excused and d.state is not DeviceState.WAITING
        ]
        assert len(counted) <= view.rollout.wave_limits[view.rollout.wave]
        if view.rollout.state in (RolloutState.RUNNING, DONE):
            proved = {d.device_id for d in view.devices if bench.controller.receipts(d.device_id)}
            updated = {d.device_id for d in view.devices if d.state is DeviceState.UPDATED}
            assert updated <= proved
        if view.rollout.state is DONE:
            answered = view.total.size - int(view.rollout.order.unknown_share_max * view.total.size)
            assert view.total.updated >= 0.9 * answered - 1e-9
            really = bench.fleet.running(MODEL)
            # One that flaps may have gone back since the Report by which it was counted.
            flapping = {d.device_id for d in devices if d.behaviour is Behaviour.FLAPPING}
            assert all(really[device_id] == 2 for device_id in updated - flapping)
            break
        if view.rollout.state is UNDONE:
            told = {d.device_id: d.targets[-1].releases[0].version for d in devices}
            assert set(told.values()) == {1}
            break
