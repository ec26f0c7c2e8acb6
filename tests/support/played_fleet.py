"""PlayedFleet: plays the devices of a Job: honest ones, silent, dying, lying, leaving ones.

The same task gives the same answer whenever it is asked, as with real devices. Time passes only
while the loop waits for answers.
"""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.fleet import Answer, AskId, Failure, Reply
from cloud_hub.training.job_folder import JobPlan
from cloud_hub.training.order import JobOrder
from shared.ids import ModelName
from shared.learning.task import LearningReply, LearningTask, TaskKind, encode_reply
from shared.learning.update_codec import encode_update
from shared.model.network import DenseNetwork, NetworkSpec
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.model.weights import Array, Layout, Vector, Weights, encode_weights, layout_of
from tests.support.manual_clock import ManualClock

DEVICES = ("a", "b", "c", "d", "e")
WEIGHTS: Mapping[str, Array] = {
    "layer.weight": np.zeros((3, 4), np.float32),
    "head.weight": np.ones(2, np.float32),  # Personal
    "norm.count": np.array([7], np.int64),
}
SPEC = ModelSpec(
    model=ModelName("tones"),
    task=Task.CLASSIFICATION,
    input=WindowInput(samples=16),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
)


def make_job(folder: Path, *, weights: Mapping[str, Array] = WEIGHTS, **order: object) -> JobFiles:
    """A Job's folder as the hub writes it, for DEVICES unless the order names others."""
    files = JobFiles(folder)
    fields: dict[str, object] = {
        "model": "tones",
        "devices": DEVICES,
        "rounds": 2,
        "deadline_s": 10.0,
        "gather_s": 20.0,
    }
    wanted = JobOrder(**{**fields, **order})  # type: ignore[arg-type]
    plan = JobPlan(
        job="job-1",
        order=wanted,
        spec=SPEC,
        network=NetworkSpec(architecture=DenseNetwork(), personal=("head.",)),
        devices=wanted.devices,
        standing_path=str(folder / "standing.json"),
    )
    files.create(plan, encode_weights(weights))
    return files


def update_of(device: str, layout: Layout, number: int) -> Vector:
    """What a device's training changes in a Round."""
    generator = np.random.default_rng([ord(device[0]), number])
    return (0.1 + 0.02 * generator.standard_normal(layout.size)).astype(np.float32)


@dataclass
class Behaviour:
    """How one device is."""

    answers_after_s: float = 0.0
    is_silent: bool = False
    is_there: bool = True
    connection: str = "1"
    fails: str = ""  # The text of its failure
    refusal_code: str = ""  # Why its owner says no
    change: Callable[[Reply], Reply] = field(default=lambda reply: reply)  # What a liar does


class PlayedFleet:
    """Implements cloud_hub.training.fleet.Fleet."""

    def __init__(self, clock: ManualClock, devices: Sequence[str] = DEVICES) -> None:
        self.clock = clock
        self.devices = {device: Behaviour() for device in devices}
        self.asked: list[tuple[str, TaskKind, int]] = []  # Device, kind, Round
        self.tasks: list[LearningTask] = []
        self.weights: list[dict[str, Array]] = []
        self.ttls_s: list[float] = []
        self.forgotten: set[AskId] = set()
        self.before_asking: Callable[[LearningTask], None] = lambda _: None
        self.before_answers: Callable[[], None] = lambda: None
        self._ids = count(1)
        self._coming: list[tuple[float, int, Answer]] = []

    def present(self) -> Mapping[str, str]:
        return {name: one.connection for name, one in self.devices.items() if one.is_there}

    def ask(
        self, devices: Sequence[str], task: LearningTask, weights: Weights, *, ttl_s: float
    ) -> Mapping[str, AskId]:
        self.before_asking(task)
        self.tasks.append(task)
        self.ttls_s.append(ttl_s)
        self.weights.append({name: array.copy() for name, array in weights.items()})
        asks = {}
        for device in devices:
            ask = asks[device] = AskId(next(self._ids))
            self.asked.append((device, task.kind, task.round))
            one = self.devices[device]
            if not one.is_silent:
                answer = self._answer(ask, device, task, weights)
                at_s = self.clock.monotonic_s() + one.answers_after_s
                heapq.heappush(self._coming, (at_s, ask, answer))
        return asks

    def answers(self, wait_s: float) -> Sequence[Answer]:
        self.before_answers()
        now_s = self.clock.monotonic_s()
        if self._coming and self._coming[0][0] <= now_s + wait_s:
            at_s, _, answer = heapq.heappop(self._coming)
            self.clock.advance(max(at_s - now_s, 0.0))
            return (answer,)
        self.clock.advance(max(wait_s, 0.001))
        return ()

    def forget(self, asks: Collection[AskId]) -> None:
        self.forgotten |= set(asks)

    def times_asked(self, device: str, number: int) -> int:
        """How often a device was asked to train in a Round."""
        return self.asked.count((device, TaskKind.TRAIN, number))

    def lose_answers(self, device: str) -> None:
        """A device restarts: what it was told is gone, and it has another connection."""
        self._coming = [one for one in self._coming if one[2].device != device]
        heapq.heapify(self._coming)
        self.devices[device].connection += "1"

    def _answer(self, ask: AskId, device: str, task: LearningTask, weights: Weights) -> Answer:
        one = self.devices[device]
        if one.fails:
            return Failure(ask, device, one.fails, is_out_of_reach=False)
        said = LearningReply(
            job=task.job,
            round=task.round,
            kind=task.kind,
            base_digest=task.base_digest,
            encoding=task.encoding,
            refusal_code=one.refusal_code or None,
        )
        layout = layout_of(weights)
        update = update_of(device, layout, task.round)
        is_update = task.kind is TaskKind.TRAIN and not one.refusal_code
        arrays = encode_update(update, layout, task.encoding).arrays if is_update else {}
        numbers = {"samples_count": 10.0, "loss": 0.5, "accuracy_before": 0.5, "cpu_s": 1.5}
        return one.change(Reply(ask, device, encode_reply(said), arrays, numbers))
