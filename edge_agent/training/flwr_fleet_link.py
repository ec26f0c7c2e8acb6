"""FleetLink: this device's connection to the hub's SuperLink, over Flower's own Fleet client.

What must not live here: what a message asks, processes, files.

1. Every failure of the network, TLS end of file included, is TransientError: the caller tries
   again. Flower's own loop takes TLS errors for fatal, and ends its process at an answer 401.
2. A run that is over is RefusedError `fleet.run_over`; a message that cannot be had is
   ContractError.
3. A lease of this node's former life is dropped before a new one is taken: else nobody may come
   back before it has run out (`lease_s`).
4. The FAB is neither asked for nor looked at.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from shared.clock import Clock, now_ms
from shared.errors import ContractError, RefusedError, TransientError, UnavailableError

OBJECTS_MAX = 50_000
BEATS_PER_LEASE = 3
HEARTBEAT_RETRY_S = 2.0
NOT_REGISTERED = "fleet.not_registered"
NOT_READY = "fleet.not_ready"  # Who asks is still sending what it asks
PRECONDITION_FAILED = 412  # Flower's answer to an activation that it refuses (code 2004)

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that was claimed, and what of its content has come so far."""

    message: Message
    tree: ObjectTree
    contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def run_id(self) -> int:
        """Return which run it is of."""
        return int(self.message.metadata.run_id)


class FleetLink:
    """See the rules above. Its heartbeat may run in another thread."""

    def __init__(
        self,
        address: str,
        *,
        ca_path: Path,
        key: ec.EllipticCurvePrivateKey,
        clock: Clock,
        silent_s_max: float = 30.0,
        lease_s: float = 60.0,
        message_bytes_max: int = 2 << 30,
    ) -> None:
        """Args: address: HOST:PORT. Raises UnavailableError where the CA cannot be read."""
        self._lease_s, self._message_bytes_max = lease_s, message_bytes_max
        self.node_id = 0
        self.answered_ms = 0  # When the hub last answered anything
        self._clock = clock
        self._public = public_key_to_bytes(key.public_key())
        try:
            self._client = FleetHttpClient.from_server_address(
                address,
                False,
                ca_path.read_bytes(),
                [
                    RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                    NodeAuthHttpInterceptor(key, key.public_key()),
                ],
            )
        except (OSError, ValueError) as error:
            raise UnavailableError(
                "fleet.ca",
                f"Cannot use the hub's CA certificate {ca_path}: {error}.",
                remedy="Enrol the device again.",
            ) from error
        self._client._client.timeout = silent_s_max  # noqa: SLF001 - flwr 1.41, 1.42 fix it at 30 s

    def connect(self, former_node_id: int) -> None:
        """Take the lease. Args: former_node_id: of an earlier life, or 0. Raises TransientError."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=self._interval_s)
        try:
            response = self._call(self._client.ActivateNode, request)
        except ContractError:
            if not former_node_id:
                raise TransientError("fleet.lease", "The hub still holds a former lease.") from None
            self.node_id = former_node_id
            self.disconnect()
            try:
                response = self._call(self._client.ActivateNode, request)
            except ContractError as error:
                raise TransientError("fleet.lease", str(error)) from error
        self.node_id = int(response.node_id)

    def disconnect(self) -> None:
        """Give the lease back, if the hub can be reached."""
        if not self.node_id:
            return
        try:
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
        except (TransientError, RefusedError, ContractError):
            return

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def keep_alive(self, stop: threading.Event) -> None:
        """Send heartbeats until stopped; a thread's body."""
        while not stop.is_set():
            delay_s = self._lease_s / BEATS_PER_LEASE
            try:
                request = SendNodeHeartbeatRequest(
                    node=self._node, heartbeat_interval=self._interval_s
                )
                self._call(self._client.SendNodeHeartbeat, request)
            except (TransientError, RefusedError, ContractError):
                delay_s = HEARTBEAT_RETRY_S
            self._clock.wait(stop, delay_s)

    def pull(self) -> Incoming | None:
        """Claim the next message. Raises TransientError, ContractError."""
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list or not response.message_object_trees:
            return None
        message = message_from_proto(response.messages_list[0])
        return Incoming(message, response.message_object_trees[0])

    def fetch(self, incoming: Incoming) -> Message:
        """Return the message with its content. Raises as `pull`, and RefusedError.

        Called again after a TransientError it goes on where it was.
        """
        ids = list(dict.fromkeys(tree.object_id for tree in iterate_object_tree(incoming.tree)))
        if len(ids) > OBJECTS_MAX:
            raise ContractError("task.too_large", f"It has over {OBJECTS_MAX} parts.")
        contents = incoming.contents
        size = sum(len(content) for content in contents.values())
        for object_id in ids:
            if object_id in contents:
                continue
            contents[object_id] = self._fetch_object(incoming.run_id, object_id)
            size += len(contents[object_id])
            if size > self._message_bytes_max:
                raise ContractError(
                    "task.too_large",
                    f"It is over learning.task_bytes_max = {self._message_bytes_max} here.",
                )
        try:
            message = inflate_object_from_contents(incoming.tree.object_id, contents)
        except (ValueError, KeyError, TypeError, DecodeError) as error:
            raise ContractError("task.invalid", f"Not understood: {error}") from error
        if not isinstance(message, Message):
            raise ContractError("task.invalid", "Not a message.")
        message.metadata.__dict__["_message_id"] = incoming.tree.object_id
        return message

    def confirm(self, incoming: Incoming) -> None:
        """Tell the hub that the content was taken. Raises as `fetch`."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=incoming.run_id, message_object_id=incoming.tree.object_id
        )
        self._call(self._client.ConfirmMessageReceived, request)

    def is_wanted(self, run_id: int) -> bool:
        """Return whether a run still runs; an unreachable hub has not said otherwise."""
        try:
            self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id))
        except (RefusedError, ContractError):
            return False
        except TransientError:
            return True
        return True

    def send(self, reply: Message, *, runtime_s: float) -> None:
        """Deliver a reply; doing so twice does no harm. Raises as `fetch`."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            response = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(bare)],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[runtime_s],
                ),
            )
            for object_id in response.objects_to_push:
                request = PushObjectRequest(
                    node=self._node,
                    run_id=reply.metadata.run_id,
                    object_id=object_id,
                    object_content=objects[object_id].deflate(),
                    session_id=response.session_id,
                )
                if not self._call(self._client.PushObject, request).stored:
                    raise TransientError("fleet.not_stored", "The hub did not keep a part.")

    @property
    def _interval_s(self) -> float:
        """Return what Flower takes for a lease's length: it allows so many intervals of silence."""
        return self._lease_s / HEARTBEAT_PATIENCE

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    def _fetch_object(self, run_id: int, object_id: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        response = self._call(self._client.PullObject, request)
        if not response.object_found:
            raise ContractError("task.invalid", "A part of it is not at the hub.")
        if not response.object_available:
            raise TransientError(NOT_READY, "A part of it is not at the hub yet.")
        return bytes(response.object_content)

    def _call(self, method: Callable[[Request], Response], request: Request) -> Response:
        try:
            response = method(request)
        except httpx.HTTPStatusError as error:
            raise _of_status(error.response.status_code) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"[:300]
            raise TransientError(
                "fleet.unreachable", f"The hub cannot be reached: {text}"
            ) from error
        self.answered_ms = now_ms(self._clock)
        return response


def _of_status(status: int) -> Exception:
    if status == httpx.codes.FORBIDDEN:
        return RefusedError("fleet.run_over", "The run is over.")
    if status == httpx.codes.UNAUTHORIZED:
        return TransientError(NOT_REGISTERED, "The hub does not know this node (yet).")
    if status == PRECONDITION_FAILED or 400 <= status < 500:
        return ContractError("fleet.refused", f"The hub answered {status}.")
    return TransientError("fleet.unavailable", f"The hub answered {status}.")
