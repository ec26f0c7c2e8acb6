"""Newest decisions as runs: what is one line, and what a line says."""

from cloud_hub.dashboard.decision_view import RUNS_PER_PIPELINE, Part, decision_runs
from cloud_hub.telemetry.sql_store import Told
from shared.ids import DeviceId
from shared.wire.records import (
    Box,
    Classified,
    DecisionRecord,
    Detected,
    Outcome,
    Scored,
    Tracked,
    ZoneStanding,
)


def told(
    *outcomes: Outcome, pipeline: str = "gate", first: int = 1, version: int = 1
) -> list[Told[DecisionRecord]]:
    """Return decisions, one a second, newest first, as the store gives them."""
    found = []
    for number, outcome in enumerate(outcomes, first):
        record = DecisionRecord(
            pipeline=pipeline,
            model="cars",
            version=version,
            item=number,
            captured_ms=1000 * number,
            latency_ms=float(number),
            outcome=outcome,
        )
        found.append(Told(number, DeviceId("dev-1"), 0, 0, record))
    return found[::-1]


def test_equal_decisions_in_a_row_are_one_line_with_their_range() -> None:
    cat, dog = Classified("cat", 0.9), Classified("dog", 0.8)
    newest, before, oldest = decision_runs(told(cat, dog, Classified("dog", 0.6), cat))
    assert (newest.count, before.count, oldest.count) == (1, 2, 1)
    assert before.parts == (Part("dog", "60 to 80 %"),)
    assert (before.span_s, before.latency_ms_max) == (1.0, 3.0)
    assert newest.parts == (Part("cat", "90 %"),)


def test_boxes_that_only_moved_are_the_same_and_another_release_is_not() -> None:
    here = Detected((Box("car", 0.5, 0.0, 0.0, 0.5, 0.5),))
    there = Detected((Box("car", 0.9, 0.5, 0.5, 1.0, 1.0),))
    (run,) = decision_runs(told(here, there))
    assert run.parts == (Part("1", "car"),)
    swapped = told(there, first=3, version=2) + told(here, there)
    assert [one.version for one in decision_runs(swapped)] == [2, 1]
    assert decision_runs(told(Detected(())))[0].parts == ()


def test_totals_are_said_where_they_changed_and_all_of_them_once() -> None:
    totals = [{"road/in": 0, "road/out": 2}, {"road/in": 1, "road/out": 2}]
    outcomes = [Tracked((), totals=totals[index]) for index in (0, 1, 1)]
    empty = Tracked((), zones=(ZoneStanding("yard", 0, 0.0),), totals=totals[1])
    newest, risen, oldest = decision_runs(told(*outcomes, empty))
    assert newest.parts == (Part("road/in 1", tone=""), Part("road/out 2", tone=""))
    assert (risen.count, risen.parts) == (2, (Part("road/in 1", "+1", tone="busy"),))
    assert oldest.parts == ()


def test_a_fast_pipeline_leaves_room_for_a_slow_one() -> None:
    fast = told(*(Classified(str(number % 2), 0.9) for number in range(50)), first=10)
    slow = told(Scored(3.0, 2.0, is_anomalous=True), pipeline="pump")
    runs = decision_runs(fast + slow)
    assert [run.pipeline for run in runs] == ["gate"] * RUNS_PER_PIPELINE + ["pump"]
    assert runs[-1].parts == (Part("anomalous", "score 3, limit 2", tone="bad"),)
    assert decision_runs([]) == ()
