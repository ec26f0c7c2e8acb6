"""Lanes: several items at a time, told in order; slots fair over pipelines; who waits, sleeps."""

import threading

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.in_order import InOrder
from edge_agent.inference.loop import InferenceLoop
from edge_agent.inference.slots import InferenceSlots
from edge_agent.inference.stage_times import ITEMS_MAX, Stage, StageTimes
from edge_agent.sources.item import Item, WindowBatch
from edge_agent.sources.mailbox import Keep, Mailbox
from shared.clock import SystemClock
from shared.errors import TransientError
from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task, WindowInput
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.frames import FrameSettings, MotionSettings
from tests.support.fake_sessions import FaultSession, failing, release, sure_of
from tests.support.fake_sources import frame_of
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

NEVER = threading.Event()
Array = NDArray[np.generic]


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_any_interleaving_leaves_in_order_and_none_is_lost(
    finished: list[int], fruitless: set[int]
) -> None:
    told: list[int] = []
    order = InOrder(told.append, open_max=8)
    tickets = [order.begin() for _ in finished]
    for place in finished:
        order.finish(tickets[place], None if place in fruitless else place)
        done = finished[: finished.index(place) + 1]
        first_open = next((t for t in range(8) if t not in done), 8)
        assert told == [t for t in range(first_open) if t not in fruitless]
    assert order.open_count == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_threads_that_finish_in_any_order_are_told_in_order(lanes: int, seed: int) -> None:
    told: list[int] = []
    order = InOrder(told.append, open_max=lanes + 1)
    leading, rng, count = threading.Lock(), np.random.default_rng(seed), 120
    work = rng.integers(0, 3000, count)

    def lane() -> None:
        while True:
            with leading:
                while not order.wait_for_room(5.0):
                    pass
                ticket = order.begin() if order._begun_count < count else None
            if ticket is None:
                return
            sum(range(work[ticket]))  # Some longer than others
            order.finish(ticket, ticket)

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert told == list(range(count))


def test_a_lane_far_ahead_has_no_room() -> None:
    order = InOrder[int](lambda _: None, open_max=2)
    slow, fast = order.begin(), order.begin()
    order.finish(fast, 1)
    assert not order.wait_for_room(0.0)
    order.finish(slow, 0)
    assert order.wait_for_room(0.0)


def test_a_listener_that_breaks_costs_its_value_only() -> None:
    told: list[int] = []

    def tell(value: int) -> None:
        if value == 1:
            raise KeyError(value)
        told.append(value)

    order = InOrder(tell, open_max=4)
    tickets = [order.begin() for _ in range(4)]
    order.finish(tickets[2], 2)
    order.finish(tickets[0], 0)
    with pytest.raises(KeyError):
        order.finish(tickets[1], 1)
    order.finish(tickets[3], 3)
    assert told == [0, 2, 3]


def test_slots_go_to_who_waited_longest() -> None:
    slots, got = InferenceSlots(1), list[str]()
    assert slots.acquire(NEVER)

    def wait(name: str) -> None:
        assert slots.acquire(NEVER)
        got.append(name)
        slots.release()

    threads = [threading.Thread(target=wait, args=(name,)) for name in "abc"]
    for waiting, thread in enumerate(threads, start=1):
        thread.start()
        wait_until(lambda waiting=waiting: slots.waiting_count == waiting)
    slots.release()
    for thread in threads:
        thread.join(5.0)
    assert got == ["a", "b", "c"]
    assert slots.acquire(NEVER)  # All are back


def test_who_stops_waiting_leaves_no_slot_behind() -> None:
    slots, stop = InferenceSlots(1), threading.Event()
    assert slots.acquire(NEVER)
    stop.set()
    assert not slots.acquire(stop)
    assert slots.waiting_count == 0
    slots.release()
    assert slots.acquire(stop)


def test_percentiles_of_stages_are_of_the_last_items() -> None:
    times = StageTimes()
    assert times.percentiles() == {}
    for index in range(ITEMS_MAX + 100):
        old = index < 100
        times.add(
            wait_ms=1e6 if old else 1.0, prepare_ms=2.0, run_ms=3.0, conclude_ms=4.0, sinks_ms=5.0
        )
    found = times.percentiles()
    assert [found[stage].p50 for stage in Stage] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert found[Stage.WAIT].p99 == 1.0


class Lanes:
    """A loop with real lanes; its session answers when it is told to."""

    def __init__(
        self, *, lanes: int = 2, slots: InferenceSlots | None = None, **more: object
    ) -> None:
        self.active, self.mailbox = ActiveModel("pets"), Mailbox(Keep.EVERY)
        self.results: list[ItemResult] = []
        self.loop = InferenceLoop(
            "door",
            self.mailbox,
            self.active,
            sinks=[self.results.append],
            clock=SystemClock(),
            slots=slots,
            lanes=lanes,
            **more,  # type: ignore[arg-type]
        )
        self.stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.loop.run, args=(self.stop,)) for _ in range(lanes)
        ]

    def __enter__(self) -> "Lanes":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive()

    def put(self, *items: Item) -> None:
        for item in items:
            assert self.mailbox.put(item, NEVER)


def session(answer: object) -> FaultSession:
    return FaultSession(answer, clock=ManualClock())  # type: ignore[arg-type]


def test_two_items_are_decided_at_once_and_told_in_order() -> None:
    first_may_end, both_in = threading.Event(), threading.Barrier(2)

    def answer(batch: Array) -> Array:
        both_in.wait(5.0)  # Breaks unless two are under way at the same time
        if batch.flat[0] == 0:
            assert first_may_end.wait(5.0)
        return np.array([[0.9, 0.1]], np.float32)

    with Lanes() as bench:
        bench.active.swap(release(1, session(answer)))
        bench.put(frame_of(0, value=0), frame_of(1, value=9))
        wait_until(lambda: bench.loop._order._finished)  # The second is done, and waits
        assert not bench.results
        first_may_end.set()
        wait_until(lambda: len(bench.results) == 2)
    assert [result.item for result in bench.results] == [0, 1]


def test_an_item_is_not_taken_before_there_is_a_slot() -> None:
    slots = InferenceSlots(1)
    assert slots.acquire(NEVER)
    with Lanes(slots=slots) as bench:
        bench.mailbox._keep = Keep.NEWEST
        bench.active.swap(release(1, session(sure_of("cat"))))
        bench.put(frame_of(0))
        wait_until(lambda: slots.waiting_count == 1)  # One leads, the other sleeps
        bench.put(frame_of(1))
        slots.release()
        wait_until(lambda: bench.results)
    assert [result.item for result in bench.results] == [1]
    assert bench.mailbox.counts.items_dropped == 1


def test_a_lost_worker_makes_a_missed_item_and_the_lanes_go_on() -> None:
    runs = iter(range(100))

    def answer(_batch: Array) -> Array:
        if next(runs) == 1:
            raise TransientError("worker.lost", "The worker was killed.")
        return np.array([[0.9, 0.1]], np.float32)

    with Lanes(lanes=1) as bench:
        bench.active.swap(release(1, session(answer)))
        bench.put(*(frame_of(i) for i in range(3)))
        bench.mailbox.end()
        bench.join()
    assert [type(result) for result in bench.results] == [Decision, MissedItem, Decision]
    assert bench.results[1].code == "worker.lost"  # type: ignore[union-attr]
    assert bench.loop.is_over


@pytest.mark.parametrize("lanes", [2, 4])
def test_swaps_and_companions_under_many_lanes_lose_and_mix_none(lanes: int) -> None:
    sessions = [session(sure_of("cat")), session(sure_of("dog"))]
    releases = [release(version + 1, one) for version, one in enumerate(sessions)]
    with Lanes(lanes=lanes) as bench:
        bench.active.swap(releases[0])
        for sequence in range(200):
            if sequence % 20 == 10:
                turn = (sequence // 20) % 2
                bench.active.swap(releases[turn], companion=releases[1 - turn])
            bench.put(frame_of(sequence))
        bench.mailbox.end()
        bench.join()
    assert [result.item for result in bench.results] == list(range(200))
    for result in bench.results:
        assert isinstance(result, Decision)
        assert result.outcome.label == ("cat", "dog")[result.version - 1]  # type: ignore[union-attr]
    assert bench.active.take_comparisons()
    assert bench.loop.is_over


def test_settings_change_between_two_items() -> None:
    told: list[ItemResult] = []
    with Lanes(lanes=1) as bench:
        bench.active.swap(release(1, session(failing)))
        bench.put(frame_of(0))
        wait_until(lambda: len(bench.results) == 1)
        bench.loop.change(settings=DecisionSettings(hysteresis_margin=0.5), sinks=[told.append])
        bench.put(frame_of(1))
        wait_until(lambda: told)
    assert [result.item for result in (*bench.results, *told)] == [0, 1]


def test_where_nothing_moves_the_model_is_not_asked_and_the_last_outcome_told_again() -> None:
    motion = MotionSettings(settle_s=0.0, refresh_s=0.0)
    seen = session(sure_of("cat"))
    with Lanes(frames=FrameSettings(motion=motion)) as bench:
        bench.active.swap(release(1, seen))
        bench.put(*(frame_of(i, captured_s=float(i), value=40) for i in range(6)))
        bench.mailbox.end()
        bench.join()
    held = [result for result in bench.results if isinstance(result, Decision) and result.is_held]
    assert [result.item for result in bench.results] == list(range(6))
    assert len(held) == bench.loop.gated_count == 6 - seen.runs_count > 0
    assert {result.outcome.label for result in held} == {"cat"}  # type: ignore[union-attr]


def test_other_settings_are_asked_about_though_nothing_moves() -> None:
    motion = MotionSettings(settle_s=0.0, refresh_s=0.0)
    with Lanes(lanes=1, frames=FrameSettings(motion=motion)) as bench:
        bench.active.swap(release(1, session(sure_of("cat"))))
        for index in range(6):
            if index in (2, 4):  # The second time they are the same: sinks have changed, say
                bench.loop.change(settings=DecisionSettings(hysteresis_margin=0.5))
            bench.put(frame_of(index, captured_s=float(index), value=40))
            wait_until(lambda count=index + 1: len(bench.results) == count)  # type: ignore[misc]
    asked = [result.item for result in bench.results if not getattr(result, "is_held", False)]
    assert asked == [0, 2]


def test_a_camera_that_moves_again_is_not_frozen_for_a_model_of_other_pictures() -> None:
    wider = session(sure_of("cat"))
    wider.spec = msgspec.structs.replace(wider.spec, input=ImageInput(width=10, height=8))
    with Lanes(lanes=1, frames=FrameSettings(frozen_s=1.0)) as bench:
        bench.active.swap(release(1, session(sure_of("cat"))))
        bench.put(*(frame_of(i, captured_s=float(i)) for i in range(3)))
        wait_until(lambda: bench.loop.is_frozen)
        bench.active.swap(release(2, wider))
        bench.put(*(frame_of(i, captured_s=float(i), value=i) for i in range(3, 6)))
        wait_until(lambda: len(bench.results) == 6)
        assert not bench.loop.is_frozen


class WindowSession(FaultSession):
    """Scores a window by its first sample; takes several at once if it is told to."""

    def __init__(self, *, takes_batches: bool) -> None:
        super().__init__(self._score, clock=ManualClock())
        self.takes_batches = takes_batches
        self.spec = ModelSpec(
            model="pets",
            task=Task.ANOMALY,
            input=WindowInput(samples=4, channels=1),
            output=OutputSpec(decoder=Decoder.SCORE, threshold=2.5),
        )

    def _score(self, batch: Array) -> Array:
        if len(batch) > 1 and not self.takes_batches:
            failing(batch)
        return batch[:, 0, :1].astype(np.float32)


@pytest.mark.parametrize(("takes_batches", "runs"), [(True, 1), (False, 1 + 5)])
def test_a_batch_of_sensors_makes_a_decision_each(takes_batches: bool, runs: int) -> None:
    scorer = WindowSession(takes_batches=takes_batches)
    samples = np.arange(5, dtype=np.float32)[:, None, None].repeat(4, axis=1)  # (N, T, C)
    sensors = tuple("abcde")
    with Lanes(lanes=1) as bench:
        bench.active.swap(release(1, scorer))
        bench.put(WindowBatch(samples, sensors, 7, 0, 0.0))
        bench.mailbox.end()
        bench.join()
    assert [result.sensor for result in bench.results] == list(sensors)  # type: ignore[union-attr]
    scores = [result.outcome.score for result in bench.results]  # type: ignore[union-attr]
    assert scores == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert scorer.runs_count == runs
