"""A device's key in bad hands: it speaks Flower's Fleet protocol, and answers what it likes."""

import threading
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from edge_agent.training.flwr_fleet_link import FleetLink, Incoming
from shared.clock import SystemClock
from shared.errors import IsthmusError, TransientError
from shared.learning.task import (
    METRICS_RECORD,
    REPLY_RECORD,
    TASK_RECORD,
    UPDATE_RECORD,
    WEIGHTS_RECORD,
    LearningReply,
    LearningTask,
    TaskKind,
    decode_task,
    encode_reply,
)
from shared.model.weights import Array
from tests.support.real_fleet import RealAgent, RealHub

POLL_S = 0.1
Update = dict[str, Array]
Lie = tuple[LearningReply, Update, dict[str, float]]
Liar = Callable[[LearningReply, Update], Lie]


class HostileNode:
    """Answers each Round's task with what the liar of that Round makes of an honest answer."""

    def __init__(self, hub: RealHub, agent: RealAgent, liars: Mapping[int, Liar]) -> None:
        """Args: agent: that joined and does not run. liars: by Round; in others it is honest."""
        self.sent: list[int] = []  # Rounds that were answered
        self.troubles: list[str] = []
        self._liars = liars
        key = load_pem_private_key((agent.state / "identity" / "device.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._link = FleetLink(
            f"127.0.0.1:{hub.learning_port}",
            ca_path=hub.state / "pki" / "ca.crt",
            key=key,
            clock=SystemClock(),
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Leave."""
        self._stop.set()
        self._thread.join()
        self._link.disconnect()
        self._link.close()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                if not self._link.node_id:
                    self._link.connect(0)
                incoming = self._link.pull()
                if incoming is not None:
                    self._answer(self._fetch(incoming))
            except IsthmusError as error:  # Not wanted yet, or no more
                self.troubles.append(str(error))

    def _fetch(self, incoming: Incoming) -> Message:
        """Return a message, once all of it is at the hub."""
        while True:
            try:
                message = self._link.fetch(incoming)
            except TransientError:
                if self._stop.wait(POLL_S):
                    raise
            else:
                self._link.confirm(incoming)
                return message

    def _answer(self, message: Message) -> None:
        task = decode_task(str(message.content.config_records[TASK_RECORD][TASK_RECORD]))
        weights = message.content.array_records[WEIGHTS_RECORD]
        update = {n: _small(array.numpy()) for n, array in weights.items()}
        told = {"samples_count": 100.0, "loss": 1.0}
        lie: Lie = (_honest(task), update, told)
        if task.kind is TaskKind.TRAIN and task.round in self._liars:
            reply, update, more = self._liars[task.round](lie[0], update)
            lie = (reply, update, told | more)
        self._link.send(_message(message, *lie), runtime_s=0.1)
        if task.kind is TaskKind.TRAIN:
            self.sent.append(task.round)


def _small(weights: Array) -> Array:
    """Return an update about as large as an honest one."""
    noise = np.random.default_rng(weights.size).standard_normal(weights.shape)
    return (0.01 * noise).astype(np.float32)


def _honest(task: LearningTask) -> LearningReply:
    return LearningReply(
        job=task.job,
        round=task.round,
        kind=task.kind,
        base_digest=task.base_digest,
        encoding=task.encoding,
    )


def _message(
    message: Message, reply: LearningReply, update: Update, told: dict[str, float]
) -> Message:
    content = RecordDict({REPLY_RECORD: ConfigRecord({REPLY_RECORD: encode_reply(reply)})})
    content[UPDATE_RECORD] = ArrayRecord({n: FlowerArray(a) for n, a in update.items()})
    content[METRICS_RECORD] = MetricRecord(dict(told))
    return Message(content, reply_to=message)


# Lies


def not_finite(reply: LearningReply, update: Update) -> Lie:
    """Return an update with one number that is none."""
    name = next(iter(update))
    update[name].reshape(-1)[7] = np.nan
    return reply, update, {}


def inflated(reply: LearningReply, update: Update) -> Lie:
    """Return an update ten thousand times as large, of more samples than there are anywhere."""
    return (
        reply,
        {n: np.asarray(a, np.float32) * 1e4 for n, a in update.items()},
        {"samples_count": 1e9},
    )


def misshapen(reply: LearningReply, update: Update) -> Lie:
    """Return an update whose arrays are all turned, which keeps their size."""
    return reply, {n: np.ascontiguousarray(a.T[None]) for n, a in update.items()}, {}


def misnamed(reply: LearningReply, update: Update) -> Lie:
    """Return an update of another network."""
    return reply, {f"other.{n}": a for n, a in update.items()}, {}


def of_other_job(reply: LearningReply, update: Update) -> Lie:
    """Return an answer to another Job."""
    return msgspec.structs.replace(reply, job="job-0000000000"), update, {}


def of_other_round(reply: LearningReply, update: Update) -> Lie:
    """Return an answer to a Round that nobody asked."""
    return msgspec.structs.replace(reply, round=reply.round + 5), update, {}


def oversized(reply: LearningReply, update: Update) -> Lie:
    """Return 50 MB in place of ten thousand numbers."""
    name = next(iter(update))
    return reply, update | {name: np.zeros(50_000_000 // 4, np.float32)}, {}
