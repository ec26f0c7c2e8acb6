"""The two tables of a Job's life, and the pure rules beside them, checked as tables."""

import pytest

from cloud_hub.training import lifecycle
from cloud_hub.training.event_tally import DeviceTally, EventTally, RoundTally
from cloud_hub.training.job import ATTEMPTS_MAX, JobDevice, JobId, JobState, Outcome
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.lifecycle import (
    LIVE,
    RESULT_TRANSITIONS,
    TRANSITIONS,
    Effect,
    Event,
    ResultEvent,
    ResultState,
    lost_event,
    require_step,
    retry_delay_ms,
)
from cloud_hub.training.spread import spread_over
from shared.errors import RefusedError
from shared.ids import DeviceId


@pytest.mark.parametrize("state", JobState)
def test_every_state_survives_a_restart_as_it_was(state: JobState) -> None:
    assert TRANSITIONS[state, Event.RESTARTED] == lifecycle.Step(state)


@pytest.mark.parametrize("state", ResultState)
def test_every_state_of_a_result_survives_a_restart_as_it_was(state: ResultState) -> None:
    assert RESULT_TRANSITIONS[state, ResultEvent.RESTARTED] is state


def test_an_outcome_is_given_exactly_with_the_end() -> None:
    for (state, event), step in TRANSITIONS.items():
        is_end = step.state is JobState.FINISHED and event is not Event.RESTARTED
        assert (step.outcome is not None) == is_end, (state, event)
        assert (step.effect is Effect.LET_GO) == is_end, (state, event)


def test_a_person_can_stop_what_is_not_finished_and_approve_what_waits() -> None:
    for state in JobState:
        if state is JobState.FINISHED:
            with pytest.raises(RefusedError) as caught:
                require_step(state, Event.STOPPED, job_id="job-1")
            assert caught.value.code == "job.cannot_stop"
        else:
            step = require_step(state, Event.STOPPED, job_id="job-1")
            assert step.outcome is Outcome.STOPPED
        if state is not JobState.SUBMITTED:
            with pytest.raises(RefusedError) as caught:
                require_step(state, Event.APPROVED, job_id="job-1")
            assert caught.value.code == "job.cannot_approve"


def test_every_state_can_be_reached_and_left_for_the_end() -> None:
    reached = {JobState.SUBMITTED}
    for _ in JobState:
        reached |= {step.state for (state, _), step in TRANSITIONS.items() if state in reached}
    assert reached == set(JobState)
    ends = {state for (state, _), step in TRANSITIONS.items() if step.outcome is Outcome.FAILED}
    assert ends == {JobState.APPROVED, *LIVE}


def test_a_result_always_settles() -> None:
    for state in (ResultState.KEEPING, ResultState.RELEASING):
        assert RESULT_TRANSITIONS[state, ResultEvent.UNUSABLE] is ResultState.SETTLED
    settled = [pair for pair in RESULT_TRANSITIONS if pair[0] is ResultState.SETTLED]
    assert settled == [(ResultState.SETTLED, ResultEvent.RESTARTED)]


def test_lost_runs_are_tried_again_with_growing_delay_and_not_for_ever() -> None:
    delays = [retry_delay_ms(attempt) for attempt in range(2, ATTEMPTS_MAX + 1)]
    assert delays == sorted(delays)
    assert (delays[0], delays[1], delays[-1]) == (2000, 4000, 60_000)
    assert lost_event(ATTEMPTS_MAX - 1) is Event.RUN_LOST
    assert lost_event(ATTEMPTS_MAX) is Event.GAVE_UP


def event(code: str, number: int, device: str | None = None, **numbers: float) -> JobEvent:
    return JobEvent(number=1, at_ms=5, code=code, round=number, device=device, numbers=numbers)


def tally(*events: JobEvent) -> EventTally:
    made = EventTally({"a": DeviceTally(), "b": DeviceTally()}, {})
    made.add(events)
    return made


def test_accuracy_belongs_to_the_weights_it_was_measured_on() -> None:
    made = tally(
        event("update.accepted", 1, "a", accuracy_before=0.2, accuracy_after=0.99),
        event("round.closed", 1, devices_counted=1, devices_asked=2),
        event("update.accepted", 2, "a", accuracy_before=0.5),
        # It came late: measured with the first weights, of the Job or not, it is not the newest.
        event("update.accepted", 2, "b", accuracy_before=0.3, rounds_late=1),
        event("round.closed", 2, devices_counted=2, devices_asked=2),
        event("evaluation", 2, "a", accuracy_before=0.7),
    )
    a, b = made.devices["a"], made.devices["b"]
    assert (a.accuracy_before, a.accuracy_after, a.accuracy_after_round) == (0.2, 0.7, 2)
    assert (b.accuracy_before, b.accuracy_after) == (None, None)
    assert (made.rounds[1].next_before_sum, made.rounds[1].next_before_count) == (0.5, 1)
    assert (made.rounds[2].evaluated_sum, made.rounds[2].evaluated_count) == (0.7, 1)
    assert made.rounds_done == 2


def test_a_repeated_round_counts_anew_but_what_was_sent_was_sent() -> None:
    made = tally(
        event("round.started", 1, devices_asked=2),
        event("update.accepted", 1, "a", payload_bytes=100, loss=4.0),
        event("update.refused", 1, "b", payload_bytes=10),
        event("round.repeated", 1, devices_counted=1, quorum=2),
        event("update.accepted", 1, "a", payload_bytes=100, loss=2.0),
        event("update.accepted", 1, "b", payload_bytes=100),
        event("update.accepted", 1, "stranger", payload_bytes=10_000),
    )
    found = made.rounds[1]
    assert (found.devices_counted, found.devices_refused, found.bytes_up) == (2, 0, 310)
    assert (found.loss_sum, found.loss_count) == (2.0, 1)
    assert (made.devices["a"].rounds_answered, made.devices["a"].bytes_up) == (1, 200)
    assert made.devices["b"].updates_refused == 1


def test_events_taken_in_any_parts_add_up_to_the_same() -> None:
    events = [
        event("round.started", 1, devices_asked=2),
        event("update.accepted", 1, "a", payload_bytes=7, accuracy_before=0.4, loss=1.0),
        event("device.silent", 1, "b"),
        event("round.closed", 1, devices_counted=1, devices_asked=2, bytes_down=9),
        event("update.accepted", 2, "b", payload_bytes=7, accuracy_before=0.6),
    ]
    whole = tally(*events)
    for cut in range(len(events)):
        first = tally(*events[:cut])
        second = EventTally(first.devices, first.rounds)
        second.add(events[cut:])
        assert (second.devices, second.rounds) == (whole.devices, whole.rounds)
    assert whole.rounds[1] == RoundTally(
        started_ms=5, closed_ms=5, devices_asked=2, devices_counted=1, devices_silent=1,
        bytes_up=7, bytes_down=9, loss_sum=1.0, loss_count=1,
        next_before_sum=0.6, next_before_count=1,
    )  # fmt: skip


def device(name: str, before: float | None, after: float | None) -> JobDevice:
    return JobDevice(
        device_id=DeviceId(name), state=None, code="", text="", node_status="",
        rounds_answered=1, updates_refused=0, bytes_up=0, samples_count=None,
        accuracy_before=before, accuracy_after=after, epsilon_spent=None, epsilon_max=None,
    )  # fmt: skip


def test_the_spread_says_how_many_told_and_how_many_became_worse() -> None:
    spread = spread_over(
        JobId("job-1"),
        [
            device("a", 0.2, 0.8),
            device("b", 0.6, 0.4),
            device("c", None, 0.9),
            device("d", 0.1, None),
        ],
    )
    assert spread.devices_count == 4
    assert spread.before is not None
    assert spread.after is not None
    assert spread.change is not None
    assert (spread.before.count, spread.after.count, spread.change.count) == (3, 3, 2)
    assert (spread.after.minimum, spread.after.median, spread.after.maximum) == (0.4, 0.8, 0.9)
    assert spread.worse_count == 1
    nobody = spread_over(JobId("job-1"), [device("a", None, None)])
    assert (nobody.before, nobody.after, nobody.change, nobody.devices_count) == (None,) * 3 + (1,)
