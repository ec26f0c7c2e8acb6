"""THE table, tested as a table."""

from pathlib import Path

import pytest

import edge_agent.updates.machine as machine
from edge_agent.updates.journal import Attempt, Journal, Slot, move
from edge_agent.updates.machine import TABLE, Effect, Event, Step, advance, draw
from shared.errors import UnavailableError
from shared.wire.report import UpdateState
from shared.wire.target import TargetRelease

RELEASE = TargetRelease(model="tones", version=2, manifest_digest="2" * 64, rollout="roll-2")
UNKNOWN = [(s, e) for s in UpdateState for e in Event if (s, e) not in TABLE]
ATTEMPTING = (UpdateState.FETCHING, UpdateState.STAGED, UpdateState.TRIAL, UpdateState.UNDOING)


def journal_in(state: UpdateState) -> Journal:
    attempt = Attempt(release=RELEASE, slot=Slot.B) if state in ATTEMPTING else None
    return Journal(model="tones", state=state, attempt=attempt)


@pytest.mark.parametrize("state", UpdateState)
def test_every_state_survives_a_restart(state: UpdateState) -> None:
    assert (state, Event.RESTARTED) in TABLE


@pytest.mark.parametrize("state", UpdateState)
def test_every_state_survives_the_loss_of_its_settled_slot(state: UpdateState) -> None:
    assert TABLE[state, Event.LOST].state is state


@pytest.mark.parametrize("state", ATTEMPTING)
def test_every_attempt_that_restarts_too_often_comes_to_an_end(state: UpdateState) -> None:
    assert TABLE[state, Event.GAVE_UP].state is not state


@pytest.mark.parametrize(("state", "event"), UNKNOWN)
def test_a_pair_that_is_not_in_the_table_raises_and_changes_nothing(
    state: UpdateState, event: Event
) -> None:
    journal = journal_in(state)
    with pytest.raises(UnavailableError) as caught:
        move(journal, event)
    assert caught.value.code == "update.bug"
    assert journal == journal_in(state)


def test_a_trial_that_dies_is_a_failed_trial() -> None:
    assert Step(UpdateState.UNDOING, Effect.GO_BACK) == advance(UpdateState.TRIAL, Event.RESTARTED)


def test_nothing_serves_that_was_not_proved() -> None:
    """Only PROVED leads into TRIAL, and only SETTLED ends it on the new release."""
    into_trial = {
        event
        for (state, event), step in TABLE.items()
        if step.state is UpdateState.TRIAL and state is not UpdateState.TRIAL
    }
    assert into_trial == {Event.PROVED}
    kept = {event for (_, event), step in TABLE.items() if step.effect is Effect.KEEP}
    assert kept == {Event.SETTLED}


def test_every_state_can_be_reached_and_left() -> None:
    reached, pending = {UpdateState.IDLE}, [UpdateState.IDLE]
    while pending:
        state = pending.pop()
        for (start, _), step in TABLE.items():
            if start is state and step.state not in reached:
                reached.add(step.state)
                pending.append(step.state)
    assert reached == set(UpdateState)
    for state in UpdateState:
        assert any(s is state and step.state is not state for (s, _), step in TABLE.items())


def test_the_readme_shows_the_table() -> None:
    readme = Path(machine.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{draw()}```" in readme
