"""OperatorEvents: what is told, when, and how often."""

from dataclasses import replace

import pytest

from edge_agent.sources.capture import CaptureState, CaptureStatus
from edge_agent.sources.source import Resized
from edge_agent.telemetry.events import (
    COUNTS_S,
    EVENTS_MAX,
    EVENTS_S,
    OperatorEvents,
    PipelineStanding,
)
from edge_agent.telemetry.numbers import WorkerNumbers
from shared.wire.records import HostRecord
from shared.wire.report import Failure, ModelReport, UpdateState

DIGEST = "a" * 64
FREE_MIN = 64 << 20


def events() -> OperatorEvents:
    return OperatorEvents(disk_free_bytes_min=FREE_MIN)


def standing(
    state: CaptureState, *, failing: str = "", lost: int = 0, bad: int = 0
) -> PipelineStanding:
    status = CaptureStatus(state, "Cannot open camera 0.", "source.lost")
    return PipelineStanding("door", status, failing, lost, bad)


def codes(told: OperatorEvents, now_s: float, **options: object) -> list[str]:
    state = options.pop("state", CaptureState.RUNNING)
    found = told.of_pipelines([standing(state, **options)], now_s=now_s)  # type: ignore[arg-type]
    return [event.code for event in found]


def failure(version: int = 2, *, undo_ms: int | None = None, code: str = "trial.slow") -> Failure:
    return Failure(
        version=version,
        manifest_digest=DIGEST,
        rollout="roll-1",
        code=code,
        text="It is slow.",
        undo_ms=undo_ms,
    )


def model(state: UpdateState, failed: Failure | None = None) -> ModelReport:
    return ModelReport(model="digits", state=state, version=1, failure=failed)


def host(free: int) -> HostRecord:
    return HostRecord(window_s=1.0, cpu_share=0.1, rss_bytes=1, disk_free_bytes=free)


def test_a_source_that_runs_from_the_start_is_not_told() -> None:
    told = events()
    assert codes(told, 0.0, state=CaptureState.STARTING) == []
    assert codes(told, 1.0) == []


def test_lost_and_back_are_told_once_each() -> None:
    told = events()
    lost = told.of_pipelines([standing(CaptureState.RECONNECTING)], now_s=0.0)
    assert [event.code for event in lost] == ["source.lost"]
    assert lost[0].text == "Pipeline door: Cannot open camera 0."
    assert codes(told, 1.0, state=CaptureState.RECONNECTING) == []
    assert codes(told, 2.0) == ["source.back"]
    assert codes(told, 3.0) == []


@pytest.mark.parametrize(
    ("state", "code"),
    [(CaptureState.FAILED, "source.failed"), (CaptureState.ENDED, "source.ended")],
)
def test_a_source_that_stops_is_told(state: CaptureState, code: str) -> None:
    told = events()
    assert codes(told, 0.0, state=state) == [code]
    assert codes(told, EVENTS_S * 2, state=state) == []


def test_a_stalled_source_is_told_as_such_and_the_tries_to_get_it_back_are_not() -> None:
    told = events()
    assert codes(told, 0.0, state=CaptureState.STALLED) == ["source.stalled"]
    assert codes(told, 1.0, state=CaptureState.RECONNECTING) == []
    assert codes(told, 2.0, state=CaptureState.STALLED) == []
    assert codes(told, 3.0) == ["source.back"]
    assert codes(told, 4.0, state=CaptureState.RECONNECTING) == ["source.lost"]
    assert codes(told, 5.0, state=CaptureState.STALLED) == []


def test_a_picture_that_stands_still_and_moves_again_is_told_once_each() -> None:
    told = events()

    def codes_of(state: CaptureState, *, is_frozen: bool) -> list[str]:
        now = replace(standing(state), is_frozen=is_frozen)
        return [event.code for event in told.of_pipelines([now], now_s=1.0)]

    running = CaptureState.RUNNING
    assert codes_of(running, is_frozen=False) == []
    assert codes_of(running, is_frozen=True) == ["source.frozen"]
    assert codes_of(running, is_frozen=True) == []
    assert codes_of(CaptureState.STALLED, is_frozen=True) == ["source.stalled"]
    assert codes_of(running, is_frozen=True) == ["source.back"]
    assert codes_of(running, is_frozen=False) == ["source.moving_again"]


def test_a_change_of_resolution_is_told_with_the_new_one_and_not_too_often() -> None:
    told = events()

    def texts_of(resized: Resized, now_s: float) -> list[str]:
        now = replace(standing(CaptureState.RUNNING), resized=resized)
        found = told.of_pipelines([now], now_s=now_s)
        assert all(event.code == "source.resized" for event in found)
        return [event.text for event in found]

    assert texts_of(Resized(), 0.0) == []
    assert texts_of(Resized(1, "640x480"), 1.0) == [
        "The pictures of pipeline door changed their size, 1 time so far; it is 640x480 now."
    ]
    assert texts_of(Resized(2, "1280x720"), 2.0) == []
    (later,) = texts_of(Resized(3, "640x480"), COUNTS_S + 1.0)
    assert "3 times so far" in later


def test_a_source_that_comes_and_goes_is_told_rarely_and_how_it_stands_at_last() -> None:
    told, found = events(), []
    for second in range(100):  # Lost and back every second
        state = CaptureState.RECONNECTING if second % 2 == 0 else CaptureState.RUNNING
        found += codes(told, float(second), state=state)
    assert len(found) == EVENTS_MAX
    assert found[-1] == "source.back"
    later = told.of_pipelines([standing(CaptureState.RECONNECTING)], now_s=EVENTS_S + 1)
    assert [event.code for event in later] == ["source.lost"]
    assert "It changed 95 times" in later[0].text


def test_inference_that_fails_and_recovers_is_told() -> None:
    told = events()
    assert codes(told, 0.0, failing="No.") == ["inference.failing"]
    assert codes(told, 1.0, failing="No.") == []
    assert codes(told, 2.0) == ["inference.recovered"]


def test_counts_are_told_when_they_rise_and_not_too_often() -> None:
    told = events()
    assert codes(told, 0.0, lost=0, bad=3) == ["source.payload"]
    assert codes(told, 1.0, lost=1024, bad=4) == ["source.run_over"]
    assert codes(told, 2.0, lost=2048, bad=5) == []
    (event,) = told.of_pipelines(
        [standing(CaptureState.RUNNING, lost=2048, bad=3)], now_s=COUNTS_S + 2
    )
    assert "it lost 2,048 messages" in event.text
    assert codes(told, 3 * COUNTS_S, lost=2, bad=3) == []  # Started again: it counts anew
    assert codes(told, 5 * COUNTS_S, lost=4, bad=3) == ["source.run_over"]


def worker(restarts: int, *, version: int = 1, cause: str = "stuck for 5 s") -> WorkerNumbers:
    return WorkerNumbers(
        model="digits",
        version=version,
        pid=9,
        restarts_count=restarts,
        last_cause=cause if restarts else "",
        rss_bytes=1,
    )


def test_a_restarted_worker_is_told_with_its_cause_and_not_too_often() -> None:
    told = events()
    assert told.of_workers([worker(0)], now_s=0.0) == []
    (event,) = told.of_workers([worker(1, cause="killed {by} SIGKILL")], now_s=1.0)
    assert event.code == "worker.restarted"
    assert "release 1 of digits" in event.text
    assert "1 time so far; the last one was killed {by} SIGKILL." in event.text
    assert told.of_workers([worker(3)], now_s=2.0) == []
    (other,) = told.of_workers([worker(3), worker(1, version=2)], now_s=3.0)
    assert "release 2" in other.text  # Each release's process is told for itself
    (later,) = told.of_workers([worker(3)], now_s=COUNTS_S + 2.0)
    assert "3 times so far; the last one was stuck for 5 s." in later.text
    assert told.of_workers([worker(0)], now_s=2 * COUNTS_S) == []  # Loaded again: it counts anew
    assert told.of_workers([worker(1)], now_s=3 * COUNTS_S)


def test_a_refused_and_an_undone_release_are_told_once() -> None:
    told = events()
    told.begin([model(UpdateState.IDLE)], outbox_dropped=0)
    refused = model(UpdateState.REFUSED, failure(code="golden.mismatch"))
    assert [event.code for event in told.of_models([refused])] == ["model.refused"]
    assert told.of_models([refused]) == []
    undoing = model(UpdateState.UNDOING, failure(3))
    assert told.of_models([undoing]) == []  # Told when it is over: then it says how long it took
    undone = model(UpdateState.IDLE, failure(3, undo_ms=12))
    (event,) = told.of_models([undone])
    assert event.code == "model.undone"
    assert event.text == "Release 3 of digits: It is slow. [trial.slow]"
    assert told.of_models([model(UpdateState.IDLE)]) == []
    assert [event.code for event in told.of_models([undone])] == ["model.undone"]


def test_what_holds_a_wish_up_and_what_was_lost_are_told() -> None:
    told = events()
    held_up = model(UpdateState.FETCHING, failure(code="tuf.expired"))
    assert [event.code for event in told.of_models([held_up])] == ["model.held_up"]
    lost = model(UpdateState.IDLE, failure(code="release.digest"))
    assert [event.code for event in told.of_models([lost])] == ["model.lost"]


def test_a_start_repeats_nothing_but_finishes_what_was_being_undone() -> None:
    told = events()
    undone, refused = failure(2, undo_ms=5), failure(3)
    told.begin([model(UpdateState.IDLE, undone)], outbox_dropped=7)
    assert told.of_models([model(UpdateState.IDLE, undone)]) == []
    told.begin([model(UpdateState.REFUSED, refused)], outbox_dropped=7)
    assert told.of_models([model(UpdateState.REFUSED, refused)]) == []
    assert told.of_host(host(1 << 40), outbox_dropped=7, now_s=0.0) == []
    restarted = events()
    restarted.begin([model(UpdateState.UNDOING, failure(4))], outbox_dropped=7)
    (event,) = restarted.of_models([model(UpdateState.IDLE, failure(4, undo_ms=9))])
    assert event.code == "model.undone"
    assert [e.code for e in restarted.of_host(host(1 << 40), outbox_dropped=8, now_s=0.0)] == [
        "outbox.dropping"
    ]


def test_a_disk_that_fills_up_and_empties_is_told_with_room_between() -> None:
    told = events()

    def codes_at(free: int, now_s: float) -> list[str]:
        return [event.code for event in told.of_host(host(free), outbox_dropped=0, now_s=now_s)]

    assert codes_at(FREE_MIN, 0.0) == []
    assert codes_at(FREE_MIN - 1, 1.0) == ["disk.low"]
    assert codes_at(FREE_MIN + 1, 2.0) == []  # Not enough to speak of
    assert codes_at(2 * FREE_MIN, 3.0) == ["disk.enough"]
    assert codes_at(0, 4.0) == []  # It cannot be read: nobody knows
