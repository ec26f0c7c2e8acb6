"""Plans: what a tick or a person's wish changes, without a database."""

from dataclasses import replace

import pytest

from cloud_hub.rollouts import plan as plans
from cloud_hub.rollouts.device_model import ReportedFailure
from cloud_hub.rollouts.draft import Assigned
from cloud_hub.rollouts.judge import ItemTotals
from cloud_hub.rollouts.plan import ANSWERS_MAX
from cloud_hub.rollouts.rollout import DeviceState, ReleaseRef, RolloutState
from shared.errors import RefusedError
from shared.release.receipt import ReceiptOutcome
from shared.wire.report import UpdateState
from tests.support.rollout_world import BEFORE, NEW, OLD, RolloutWorld

D = DeviceState


def test_the_first_wave_is_targeted_at_once_and_nobody_else() -> None:
    world = RolloutWorld(4)
    assert world.states() == [D.TARGETED, D.WAITING, D.WAITING, D.WAITING]
    assert world.assigned[world.ids[0]].release == NEW
    assert world.devices[world.ids[0]].previous == OLD
    assert world.assigned[world.ids[1]].release == OLD


def test_a_second_call_at_the_same_instant_changes_nothing() -> None:
    world = RolloutWorld(4)
    world.runs(world.ids[0], NEW)
    assert not world.advance().is_empty
    assert world.advance().is_empty


def test_a_device_counts_only_when_it_has_settled() -> None:
    world = RolloutWorld(1, waves=("100%",))
    device = world.ids[0]
    for proof, state in (
        (None, UpdateState.IDLE),
        (ReceiptOutcome.UNDONE, UpdateState.IDLE),
        (ReceiptOutcome.SETTLED, UpdateState.TRIAL),
        (ReceiptOutcome.SETTLED, UpdateState.UNDOING),
    ):
        world.runs(device, NEW, proof=proof, state=state)
        world.advance()
        assert world.states()[0] is not D.UPDATED, (proof, state)
    world.runs(device, replace(NEW, manifest_digest="f" * 64))
    world.advance()
    assert world.states()[0] is not D.UPDATED
    world.runs(device, NEW)
    world.advance()
    assert world.states() == [D.UPDATED]


def test_a_failure_of_another_rollout_does_not_count() -> None:
    world = RolloutWorld(1)
    world.fails(world.ids[0], rollout="roll-before")
    world.advance()
    assert world.states() == [D.TARGETED]


def test_a_failure_outweighs_a_proof() -> None:
    world = RolloutWorld(1)
    device = world.ids[0]
    world.runs(device, NEW)
    failure = ReportedFailure(release=NEW, rollout="roll-new", code="trial.worse", text="x")
    world.seen[device] = replace(world.seen[device], failure=failure)
    world.advance()
    assert world.state is RolloutState.UNDOING


def test_progress_after_the_deadline_is_no_answer_but_proof_is() -> None:
    world = RolloutWorld(1, waves=("100%",))
    device = world.ids[0]
    world.wait(100.001)
    world.advance()
    assert (world.states(), world.state) == ([D.UNKNOWN], RolloutState.HELD)
    world.progresses(device)
    assert world.advance().is_empty
    world.runs(device, NEW)
    world.advance()
    assert (world.states(), world.state) == ([D.UPDATED], RolloutState.RUNNING)


def test_a_device_that_failed_once_stays_a_failure_even_if_it_proves_it_later() -> None:
    world = RolloutWorld(2, waves=("100%",), undo_on_failure=False)
    world.fails(world.ids[0])
    world.runs(world.ids[1], NEW)
    world.advance()
    world.runs(world.ids[0], NEW)
    world.advance()
    world.wait(20)
    world.advance()
    assert world.states() == [D.UPDATED, D.UPDATED]
    assert (world.state, world.rollout.hold_code) == (RolloutState.HELD, "wave.failed")


def test_a_silent_devices_old_word_does_not_bring_it_back() -> None:
    world = RolloutWorld(2, waves=("100%",))
    world.taken_up.discard(world.ids[1])  # It runs the old one, but has not heard of any of this.
    world.runs(world.ids[0], NEW)
    world.advance()
    world.apply(plans.undo(world.snapshot(), now_ms=world.now_ms, why="", by="ada"))
    world.advance()
    assert world.states() == [D.UNDOING, D.UNDOING]
    world.runs(world.ids[0], OLD)
    world.advance()
    assert world.states() == [D.UNDONE, D.UNDOING]
    world.taken_up.add(world.ids[1])
    world.advance()
    assert world.states() == [D.UNDONE, D.UNDONE]
    assert world.state is RolloutState.UNDONE


def test_undoing_a_done_rollout_leaves_what_a_later_one_moved() -> None:
    world = RolloutWorld(2, waves=("100%",), bake_s=0.0)
    for device_id in world.ids:
        world.runs(device_id, NEW)
    world.advance()
    world.advance()
    assert world.state is RolloutState.DONE
    later = replace(NEW, version=3)
    world.assigned[world.ids[0]] = Assigned(later, BEFORE)
    world.apply(plans.undo(world.snapshot(), now_ms=world.now_ms, why="", by="ada"))
    assert world.states() == [D.UPDATED, D.UNDOING]
    assert world.assigned[world.ids[0]].release == later
    assert world.assigned[world.ids[1]].release == OLD


def test_a_held_rollout_still_undoes_itself_when_the_limit_is_passed() -> None:
    world = RolloutWorld(2, waves=("100%",))
    world.apply(plans.hold(world.snapshot(), now_ms=world.now_ms, why="", by="ada"))
    world.fails(world.ids[0])
    world.advance()
    assert world.state is RolloutState.UNDOING


def test_a_hold_that_keeps_coming_back_ends_up_with_a_person() -> None:
    world = RolloutWorld(1, waves=("100%",))
    device = world.ids[0]
    world.wait(101)
    for _ in range(ANSWERS_MAX + 3):
        world.runs(device, OLD)
        world.advance()
        world.advance()
        world.runs(device, NEW)
        world.advance()
    assert (world.state, world.rollout.hold_code) == (RolloutState.HELD, "wave.unsteady")
    assert world.codes().count("wave.answered") == ANSWERS_MAX
    world.apply(plans.resume(world.snapshot(), now_ms=world.now_ms, why="", by="ada"))
    world.advance()
    world.wait(20)
    world.advance()
    assert world.state is RolloutState.DONE


def test_low_traffic_holds_and_ends_when_items_come() -> None:
    world = RolloutWorld(1, waves=("100%",), bake_items_min=10)
    world.runs(world.ids[0], NEW)
    world.advance()
    world.wait(111)
    world.advance()
    assert (world.state, world.rollout.hold_code) == (RolloutState.HELD, "wave.low_traffic")
    world.items = ItemTotals(decided=10)
    world.advance()
    world.advance()
    assert world.state is RolloutState.DONE


def test_an_emptied_wave_is_refilled_with_as_many() -> None:
    world = RolloutWorld(6, waves=("2", "100%"))
    world.active -= set(world.ids[:2])
    world.advance()
    assert world.states() == [D.REMOVED, D.REMOVED, D.TARGETED, D.TARGETED, D.WAITING, D.WAITING]


def test_refusals_name_the_state_and_what_is_possible() -> None:
    world = RolloutWorld(1)
    with pytest.raises(RefusedError) as refused:
        plans.resume(world.snapshot(), now_ms=0, why="", by="ada")
    assert refused.value.code == "rollout.cannot_resume"
    assert "is running" in refused.value.message
    assert "held" in refused.value.remedy


def test_cancelling_while_undoing_waits_for_nobody_and_leaves_the_targets() -> None:
    world = RolloutWorld(1)
    world.apply(plans.undo(world.snapshot(), now_ms=world.now_ms, why="", by="ada"))
    world.apply(plans.cancel(world.snapshot(), now_ms=world.now_ms, why="", by="ada"))
    assert world.state is RolloutState.CANCELLED
    assert world.assigned[world.ids[0]].release == OLD
    world.runs(world.ids[0], OLD)
    world.advance()
    assert world.states() == [D.UNDONE]


def test_absorbed_devices_are_targeted_and_followed_though_the_rollout_is_done() -> None:
    world = RolloutWorld(1, waves=("100%",), bake_s=0.0)
    world.runs(world.ids[0], NEW)
    world.advance()
    world.advance()
    joined = type(world.ids[0])("dev-late")
    world.active.add(joined)
    world.apply(plans.absorb(world.snapshot(), [joined], now_ms=world.now_ms))
    assert world.devices[joined].state is D.TARGETED
    assert world.assigned[joined].release == NEW
    world.runs(joined, NEW)
    world.advance()
    assert world.devices[joined].state is D.UPDATED
    assert world.state is RolloutState.DONE


THIRD = replace(NEW, version=3, manifest_digest="3" * 64)


@pytest.mark.parametrize(
    ("runs", "is_proved", "has_taken_up", "asked", "previous"),
    [
        (OLD, True, True, OLD, OLD),
        (OLD, True, True, THIRD, OLD),  # It refused the third one.
        (THIRD, True, False, OLD, OLD),  # It is silent, and was sent back from the third one.
        (OLD, True, False, NEW, OLD),  # It was silent in an earlier rollout of the same release.
        (OLD, True, False, None, OLD),
        (NEW, True, True, NEW, NEW),  # It ran the release before this rollout began.
        (THIRD, False, True, OLD, OLD),  # What it cannot prove does not count.
        (THIRD, False, True, None, None),
        (None, False, False, None, None),
    ],
)
def test_what_a_device_goes_back_to(
    runs: ReleaseRef | None,
    is_proved: bool,
    has_taken_up: bool,
    asked: ReleaseRef | None,
    previous: ReleaseRef | None,
) -> None:
    world = RolloutWorld(2, waves=("1", "100%"), bake_s=0.0)
    canary, device = world.ids
    world.runs(device, runs, proof=ReceiptOutcome.SETTLED if is_proved else None)
    if not has_taken_up:
        world.taken_up.discard(device)
    world.assigned[device] = Assigned(asked, BEFORE)
    world.runs(canary, NEW)
    world.advance()
    world.advance()
    assert world.devices[device].state in (D.TARGETED, D.UPDATED)
    assert world.devices[device].previous == previous
