"""FlwrFleet: the devices of a Job through Flower's Runtime API (HttpGrid of flwr 1.41 and 1.42).

1. All talk with the SuperLink happens on two threads: one sends, one looks and fetches.
   Whoever calls never waits for the network.
2. Replies are fetched piece by piece, a device at a time: one that uploaded half of its reply
   holds up nobody. (HttpGrid.pull_messages waits for the missing half: 203 s with 20 s asked.)
3. A SuperLink that does not answer is tried again until the run is known to be gone.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import httpx
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException
from flwr.superlink.grid import HttpGrid

from cloud_hub.training.fleet import Answer, AskId, Failure, Reply
from cloud_hub.training.job_folder import NodeStanding
from shared.errors import UnavailableError
from shared.learning.task import (
    METRICS_RECORD,
    REPLY_RECORD,
    TASK_RECORD,
    UPDATE_RECORD,
    WEIGHTS_RECORD,
    LearningTask,
    TaskKind,
    encode_task,
)
from shared.model.weights import Array, Weights

LOOK_S = 0.2
NODES_S = 1.0
REPLIES_MAX = 4  # Fetched and not yet taken; further ones stay where they are
_BROKEN = (httpx.HTTPError, ValueError, RuntimeError)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Coming:
    """A reply of which some pieces may be here."""

    ask: AskId
    device: str
    message_id: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)


class FlwrFleet:
    """Implements cloud_hub.training.fleet.Fleet. `start` once, `stop` once."""

    def __init__(self, grid: HttpGrid, nodes: Callable[[], Sequence[NodeStanding]]) -> None:
        """Args: `grid` knows its run; `nodes` says which node is which device."""
        self._grid = grid
        self._nodes = nodes
        self._stop = threading.Event()
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._ids = count(1)
        self._present: dict[str, tuple[int, str]] = {}
        self._outgoing: queue.SimpleQueue[tuple[dict[str, AskId], LearningTask, Weights, float]]
        self._outgoing = queue.SimpleQueue()
        self._asked: dict[str, tuple[AskId, str]] = {}  # By message
        self._coming: list[_Coming] = []
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._send_all, name="asks", daemon=True),
            threading.Thread(target=self._fetch_all, name="answers", daemon=True),
        ]

    def start(self) -> None:
        """Start to look and send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; what is under way is given up."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2.0)

    def lose(self) -> None:
        """Say that this run is gone: whoever asks for answers is told."""
        self._gone.set()

    def present(self) -> Mapping[str, str]:
        """Return device -> when its node came online."""
        with self._lock:
            return {device: word for device, (_, word) in self._present.items()}

    def ask(
        self, devices: Sequence[str], task: LearningTask, weights: Weights, *, ttl_s: float
    ) -> Mapping[str, AskId]:
        """Send one task to devices; see Fleet."""
        asks = {device: AskId(next(self._ids)) for device in devices}
        self._outgoing.put((asks, task, weights, ttl_s))
        return asks

    def answers(self, wait_s: float) -> Sequence[Answer]:
        """Return what has come; see Fleet. Raises UnavailableError `job.run_gone`."""
        if self._gone.is_set():
            raise UnavailableError("job.run_gone", "The SuperLink no longer has this run.")
        try:
            return (self._answers.get(timeout=max(wait_s, 0.001)),)
        except queue.Empty:
            return ()

    def forget(self, asks: Collection[AskId]) -> None:
        """Take no more answers to these."""
        with self._lock:
            self._asked = {m: a for m, a in self._asked.items() if a[0] not in asks}
            self._coming = [one for one in self._coming if one.ask not in asks]

    def _send_all(self) -> None:
        while not self._stop.is_set():
            try:
                asks, task, weights, ttl_s = self._outgoing.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            try:
                self._send(asks, task, weights, ttl_s)
            except RunNotRunningException:
                self.lose()
            except _BROKEN as error:
                log.warning("asks.not_sent", extra={"error": str(error)[:200]})
                for device, ask in asks.items():
                    self._answers.put(_lost(ask, device, "It could not be asked."))

    def _send(
        self, asks: dict[str, AskId], task: LearningTask, weights: Weights, ttl_s: float
    ) -> None:
        arrays = ArrayRecord({name: FlowerArray(array) for name, array in weights.items()})
        config = ConfigRecord({TASK_RECORD: encode_task(task)})
        kind = MessageType.TRAIN if task.kind is TaskKind.TRAIN else MessageType.EVALUATE
        with self._lock:
            nodes = {device: node for device, (node, _) in self._present.items()}
        messages, sent = [], []
        for device, ask in asks.items():
            if device not in nodes:
                self._answers.put(_lost(ask, device, "It is not there."))
                continue
            content = RecordDict({TASK_RECORD: config, WEIGHTS_RECORD: arrays})
            messages.append(Message(content, nodes[device], kind, ttl=ttl_s))
            sent.append((ask, device))
        ids = list(self._grid.push_messages(messages)) if messages else []
        for (ask, device), message_id in zip(sent, ids, strict=True):
            if not message_id:
                self._answers.put(_lost(ask, device, "Flower refused it."))
                continue
            with self._lock:
                self._asked[message_id] = (ask, device)

    def _fetch_all(self) -> None:
        looked_s = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() - looked_s >= NODES_S:
                    self._look()
                    looked_s = time.monotonic()
                self._list_replies()
                for one in list(self._coming):
                    if self._answers.qsize() >= REPLIES_MAX:
                        break
                    self._fetch(one)
            except RunNotRunningException:
                self.lose()
            except _BROKEN as error:
                log.warning("superlink.no_answer", extra={"error": str(error)[:200]})
            self._stop.wait(LOOK_S)

    def _look(self) -> None:
        devices = {node.node_id: node.device for node in self._nodes()}
        present = {
            devices[node.node_id]: (node.node_id, node.last_activated_at)
            for node in self._grid.get_nodes()
            if node.node_id in devices
        }
        with self._lock:
            self._present = present

    def _list_replies(self) -> None:
        """Note which replies begin to be there."""
        with self._lock:
            ids = list(self._asked)
        if not ids:
            return
        found = self._grid._runtime_client.PullMessages(  # noqa: SLF001 - rule 2
            PullAppMessagesRequest(message_ids=ids)
        )
        pairs = zip(found.messages_list, found.message_object_trees, strict=True)
        for proto, tree in pairs:
            with self._lock:
                asked = self._asked.pop(proto.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            message = message_from_proto(proto)
            if message.has_error():
                self._answers.put(_failure(message, *asked))
                continue
            pieces = [node.object_id for node in iterate_object_tree(tree)]
            coming = _Coming(*asked, proto.metadata.message_id, pieces)
            with self._lock:
                self._coming.append(coming)

    def _fetch(self, one: _Coming) -> None:
        """Fetch what is there of a reply; put the answer when it is whole."""
        client, run_id = self._grid._runtime_client, self._grid.run.run_id  # noqa: SLF001 - rule 2
        node = self._grid.node
        while one.missing:
            piece = one.missing[-1]
            got = client.PullObject(PullObjectRequest(node=node, run_id=run_id, object_id=piece))
            if got.object_found and not got.object_available:
                return
            if not got.object_found:
                self._drop(one)
                self._answers.put(_lost(one.ask, one.device, "Its reply is lost."))
                return
            one.contents[piece] = got.object_content
            one.missing.pop()
        self._drop(one)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=node, run_id=run_id, message_object_id=one.message_id
            )
        )
        self._answers.put(_reply(one))

    def _drop(self, one: _Coming) -> None:
        with self._lock:
            self._coming = [other for other in self._coming if other is not one]


def _lost(ask: AskId, device: str, text: str) -> Failure:
    return Failure(ask, device, text, is_out_of_reach=True)


def _failure(message: Message, ask: AskId, device: str) -> Failure:
    error = message.error
    unreachable = (
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    )
    text = f"Flower's error {error.code}: {error.reason}"
    return Failure(ask, device, text[:1000], is_out_of_reach=error.code in unreachable)


def _reply(one: _Coming) -> Answer:
    """Return a whole reply; whatever in it is not of the agreed form is left out."""
    try:
        message = inflate_object_from_contents(one.message_id, one.contents)
        assert isinstance(message, Message)
        if message.has_error():
            return _failure(message, one.ask, one.device)
        content = message.content
        config = content.config_records.get(REPLY_RECORD) or ConfigRecord()
        update = content.array_records.get(UPDATE_RECORD) or ArrayRecord()
        metrics = content.metric_records.get(METRICS_RECORD) or MetricRecord()
        arrays: dict[str, Array] = {name: array.numpy() for name, array in update.items()}
        told = {
            name: float(value) for name, value in metrics.items() if isinstance(value, int | float)
        }
        return Reply(one.ask, one.device, str(config.get(REPLY_RECORD, "")), arrays, told)
    except (ValueError, TypeError, KeyError, OSError, EOFError, OverflowError) as error:
        text = f"reply.unreadable: {error}"[:1000]
        return Failure(one.ask, one.device, text, is_out_of_reach=False)
