"""The two state tables of a rollout."""

from pathlib import Path

import pytest

from cloud_hub.rollouts.rollout import (
    DEVICE_TRANSITIONS,
    MOVED,
    TRANSITIONS,
    UNFINISHED,
    DeviceEvent,
    DeviceState,
    RolloutEvent,
    RolloutState,
    draw,
    next_device_state,
    next_state,
)

ASKED = {RolloutEvent.HOLD, RolloutEvent.RESUME, RolloutEvent.UNDO, RolloutEvent.CANCEL}


@pytest.mark.parametrize("state", RolloutState)
@pytest.mark.parametrize("event", RolloutEvent)
def test_a_pair_that_is_not_in_the_table_is_a_bug(state: RolloutState, event: RolloutEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
        return
    with pytest.raises(AssertionError):
        next_state(state, event)


@pytest.mark.parametrize("state", DeviceState)
@pytest.mark.parametrize("event", DeviceEvent)
def test_a_device_pair_that_is_not_in_the_table_is_a_bug(
    state: DeviceState, event: DeviceEvent
) -> None:
    if (state, event) in DEVICE_TRANSITIONS:
        assert next_device_state(state, event) is DEVICE_TRANSITIONS[state, event]
        return
    with pytest.raises(AssertionError):
        next_device_state(state, event)


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_a_person_can_end_every_unfinished_rollout(state: RolloutState) -> None:
    assert TRANSITIONS[state, RolloutEvent.CANCEL] is RolloutState.CANCELLED


@pytest.mark.parametrize("state", sorted(set(RolloutState) - UNFINISHED))
def test_a_finished_rollout_moves_only_when_a_person_undoes_it(state: RolloutState) -> None:
    events = {event for before, event in TRANSITIONS if before is state}
    assert events <= {RolloutEvent.UNDO}


@pytest.mark.parametrize("state", sorted(MOVED))
def test_every_moved_device_can_be_sent_back_and_revoked(state: DeviceState) -> None:
    assert DEVICE_TRANSITIONS[state, DeviceEvent.SENT_BACK] is DeviceState.UNDOING
    assert DEVICE_TRANSITIONS[state, DeviceEvent.REMOVED] is DeviceState.REMOVED


def test_only_proof_makes_a_device_updated() -> None:
    ways = {
        event for (_, event), after in DEVICE_TRANSITIONS.items() if after is DeviceState.UPDATED
    }
    # KEPT is a device that has settled and proved the release with nothing to go back to.
    assert ways == {DeviceEvent.PROVED, DeviceEvent.KEPT}


def test_only_running_out_of_waves_makes_a_rollout_done() -> None:
    ways = {pair for pair, after in TRANSITIONS.items() if after is RolloutState.DONE}
    assert ways == {(RolloutState.RUNNING, RolloutEvent.LAST_WAVE_PASSED)}


def test_every_state_can_be_reached() -> None:
    assert {RolloutState.RUNNING, *TRANSITIONS.values()} == set(RolloutState)
    assert {DeviceState.WAITING, *DEVICE_TRANSITIONS.values()} == set(DeviceState)


def test_the_pictures_in_the_readme_are_the_tables() -> None:
    readme = Path(__file__).parents[2] / "cloud_hub" / "rollouts" / "README.md"
    assert f"```mermaid\n{draw()}```\n" in readme.read_text()
