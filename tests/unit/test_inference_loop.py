"""InferenceLoop: one pass per item, swaps between items, failures, companions."""

import logging
import threading

import numpy as np
import pytest

from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.loop import InferenceLoop
from edge_agent.sources.item import Item, Window
from edge_agent.sources.mailbox import Keep, Mailbox
from shared.pipeline.decisions import DecisionSettings
from tests.support.fake_sessions import FaultSession, failing, release, sure_of
from tests.support.fake_sources import frame_of
from tests.support.manual_clock import ManualClock

NEVER = threading.Event()


class Bench:
    """A loop whose thread is the test's own."""

    def __init__(self, settings: DecisionSettings | None = None) -> None:
        self.clock = ManualClock()
        self.active = ActiveModel("pets")
        self.mailbox = Mailbox(Keep.EVERY)
        self.results: list[ItemResult] = []
        self.stop, self.wanted = threading.Event(), 0
        self.loop = InferenceLoop(
            "door",
            self.mailbox,
            self.active,
            sinks=[self._note],
            clock=self.clock,
            settings=settings,
        )

    def session(self, answer: object, takes_ms: float = 10.0) -> FaultSession:
        return FaultSession(answer, clock=self.clock, takes_ms=takes_ms)  # type: ignore[arg-type]

    def decide(self, *items: Item) -> list[ItemResult]:
        """Run the loop until it has decided these items; return what came of them."""
        before = len(self.results)
        self.wanted, self.stop = before + len(items), threading.Event()
        for item in items:
            assert self.mailbox.put(item, NEVER)
        self.loop.run(self.stop)
        return self.results[before:]

    def _note(self, result: ItemResult) -> None:
        self.results.append(result)
        if len(self.results) == self.wanted:
            self.stop.set()

    def item(self, sequence: int, *, waited_ms: float = 0.0) -> Item:
        return frame_of(sequence, captured_s=self.clock.monotonic_s() - waited_ms / 1000.0)


def test_a_decision_tells_who_decided_what_and_how_long_it_took() -> None:
    bench = Bench()
    bench.active.swap(release(3, bench.session(sure_of("dog", 0.75), takes_ms=8.0)))
    (decision,) = bench.decide(bench.item(41, waited_ms=5.0))
    assert isinstance(decision, Decision)
    assert (decision.pipeline, decision.model, decision.version) == ("door", "pets", 3)
    assert decision.item == 41
    assert decision.outcome.label == "dog"  # type: ignore[union-attr]
    assert decision.confidence == pytest.approx(0.75)
    assert decision.inference_ms == pytest.approx(8.0)
    assert decision.latency_ms == pytest.approx(13.0)
    assert decision.swap_pause_ms == 0.0


def test_without_a_model_nothing_is_taken_and_nothing_is_lost() -> None:
    bench, stop = Bench(), threading.Event()
    for sequence in range(5):
        bench.mailbox.put(bench.item(sequence), NEVER)
    bench.mailbox.end()
    worker = threading.Thread(target=bench.loop.run, args=(stop,))
    worker.start()
    assert bench.loop.is_waiting_for_model
    assert not bench.results
    bench.active.swap(release(1, bench.session(sure_of("cat"))))
    worker.join(5.0)
    assert [result.item for result in bench.results] == [0, 1, 2, 3, 4]
    assert bench.loop.is_over


def test_a_withdrawn_model_keeps_items_for_the_next() -> None:
    bench = Bench()
    bench.active.swap(release(1, bench.session(sure_of("cat"))))
    bench.decide(bench.item(0))
    bench.active.withdraw()
    bench.mailbox.put(bench.item(1), NEVER)
    bench.mailbox.end()
    stop = threading.Event()
    worker = threading.Thread(target=bench.loop.run, args=(stop,))
    worker.start()
    bench.active.swap(release(2, bench.session(sure_of("cat"))))
    worker.join(5.0)
    assert [(result.item, result.version) for result in bench.results] == [(0, 1), (1, 2)]


def test_a_failing_model_misses_items_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.active.swap(release(1, bench.session(failing)))
    missed = bench.decide(bench.item(0), bench.item(1))
    assert missed == [
        MissedItem(pipeline="door", model="pets", version=1, item=i, code="inference.failed")
        for i in (0, 1)
    ]
    bench.active.swap(release(2, bench.session(sure_of("cat"))))
    (decision,) = bench.decide(bench.item(2))
    assert isinstance(decision, Decision)
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        "inference.failing"
    ]


def test_outputs_that_are_not_finite_are_a_missed_item() -> None:
    bench = Bench()
    answer = lambda _batch: np.array([[np.nan, 1.0]], np.float32)  # noqa: E731
    bench.active.swap(release(1, bench.session(answer)))
    (missed,) = bench.decide(bench.item(0))
    assert isinstance(missed, MissedItem)
    assert missed.code == "inference.output"


def test_an_item_of_the_wrong_kind_is_a_missed_item() -> None:
    bench = Bench()
    bench.active.swap(release(1, bench.session(sure_of("cat"))))
    (missed,) = bench.decide(Window(np.zeros((4, 1), np.float32), 0, 0, 0.0))
    assert isinstance(missed, MissedItem)
    assert missed.code == "inference.input"


def test_an_item_that_neither_release_takes_is_no_evidence_and_said() -> None:
    bench = Bench()
    first = release(1, bench.session(sure_of("cat")))
    bench.active.swap(release(2, bench.session(sure_of("cat"))), companion=first)
    bench.decide(Window(np.zeros((4, 1), np.float32), 0, 0, 0.0))
    assert bench.active.take_comparisons() == []
    assert "Give the pipeline a source of the model's kind." in bench.loop.failing
    bench.decide(bench.item(1))
    assert len(bench.active.take_comparisons()) == 1
    assert bench.loop.failing == ""


def test_the_first_item_after_a_swap_tells_what_it_waited() -> None:
    bench = Bench()
    bench.active.swap(release(1, bench.session(sure_of("cat"))))
    before = bench.decide(*(bench.item(i) for i in range(1)))
    for i in range(1, 9):
        before += bench.decide(bench.item(i))
    bench.active.swap(release(2, bench.session(sure_of("cat"))))
    (first,) = bench.decide(bench.item(9, waited_ms=37.0))
    (second,) = bench.decide(bench.item(10, waited_ms=50.0))
    assert all(result.swap_pause_ms == 0.0 for result in before)  # type: ignore[union-attr]
    assert first.swap_pause_ms == pytest.approx(37.0)  # type: ignore[union-attr]
    assert second.swap_pause_ms == 0.0  # type: ignore[union-attr]


def test_a_faster_release_has_no_negative_pause() -> None:
    bench = Bench()
    bench.active.swap(release(1, bench.session(sure_of("cat"), takes_ms=50.0)))
    bench.decide(bench.item(0))
    bench.active.swap(release(2, bench.session(sure_of("cat"), takes_ms=1.0)))
    (first,) = bench.decide(bench.item(1))
    assert first.swap_pause_ms == 0.0  # type: ignore[union-attr]


def test_the_companion_runs_after_the_decision_and_is_compared() -> None:
    bench = Bench()
    companion = bench.session(sure_of("dog", 0.6), takes_ms=20.0)
    bench.active.swap(
        release(2, bench.session(sure_of("cat", 0.8))), companion=release(1, companion)
    )
    (decision,) = bench.decide(bench.item(0))
    assert decision.latency_ms == pytest.approx(10.0)  # type: ignore[union-attr]
    (comparison,) = bench.active.take_comparisons()
    assert (comparison.serving_version, comparison.companion_version) == (2, 1)
    assert comparison.serving_ms == pytest.approx(10.0)
    assert comparison.companion_ms == pytest.approx(20.0)
    assert comparison.serving_confidence == pytest.approx(0.8)
    assert comparison.companion_confidence == pytest.approx(0.6)
    assert comparison.agrees is False


def test_a_failure_of_either_leaves_agreement_unknown() -> None:
    bench = Bench()
    good = bench.session(sure_of("cat"))
    bench.active.swap(release(2, bench.session(failing)), companion=release(1, good))
    bench.decide(bench.item(0))
    (comparison,) = bench.active.take_comparisons()
    assert comparison.serving_ms is None
    assert comparison.serving_confidence is None
    assert comparison.companion_ms is not None
    assert comparison.agrees is None


@pytest.mark.parametrize(("share", "runs"), [(1.0, 8), (0.25, 2), (0.5, 4)])
def test_the_companion_runs_on_its_share_of_the_items(share: float, runs: int) -> None:
    bench = Bench(DecisionSettings(companion_share=share))
    companion = bench.session(sure_of("cat"))
    bench.active.swap(release(2, bench.session(sure_of("cat"))), companion=release(1, companion))
    bench.decide(*(bench.item(i) for i in range(8)))
    assert companion.runs_count == runs
    assert len(bench.active.take_comparisons()) == runs


def test_hysteresis_keeps_a_class_until_another_is_clearly_better() -> None:
    bench = Bench(DecisionSettings(hysteresis_margin=0.3))
    shares = iter([0.9, 0.45, 0.2])
    answer = lambda _batch: (lambda s: np.array([[s, 1 - s]], np.float32))(next(shares))  # noqa: E731
    bench.active.swap(release(1, bench.session(answer)))
    labels = [
        bench.decide(bench.item(i))[0].outcome.label  # type: ignore[union-attr]
        for i in range(3)
    ]
    assert labels == ["cat", "cat", "dog"]


def test_every_sink_gets_every_result_in_order() -> None:
    bench = Bench()
    heard: list[str] = []
    loop = InferenceLoop(
        "door",
        bench.mailbox,
        bench.active,
        sinks=[lambda _: heard.append("first"), lambda _: heard.append("second")],
        clock=bench.clock,
    )
    bench.active.swap(release(1, bench.session(sure_of("cat"))))
    bench.mailbox.put(bench.item(0), NEVER)
    bench.mailbox.put(bench.item(1), NEVER)
    bench.mailbox.end()
    loop.run(NEVER)
    assert heard == ["first", "second"] * 2


def test_swaps_while_items_flow_lose_none_and_mix_none() -> None:
    bench, count = Bench(), 300
    sessions = [bench.session(sure_of(label)) for label in ("cat", "dog")]
    bench.active.swap(release(1, sessions[0]))
    worker = threading.Thread(target=bench.loop.run, args=(NEVER,))
    worker.start()
    for sequence in range(count):
        if sequence % 10 == 5:
            version = 1 + (sequence // 10) % 2
            bench.active.swap(release(version, sessions[version - 1]))
        bench.mailbox.put(bench.item(sequence), NEVER)
    bench.mailbox.end()
    worker.join(20.0)
    assert [result.item for result in bench.results] == list(range(count))
    for result in bench.results:
        assert isinstance(result, Decision)
        assert result.outcome.label == ("cat", "dog")[result.version - 1]  # type: ignore[union-attr]
