"""FlowerState: what Flower's SuperLink knows of nodes and runs, in our words.

Its handlers and its database are called inside its own process, so that nobody needs the Control
API. What must not live here: what to do about what is known.

1. A node's name in Flower is its device's id; its key is the one the device was enrolled with.
2. A run says by its settings which Job and attempt it is: written with the run, in one transaction.
3. Flower never forgets a key: a node that was unregistered is deleted before its key is
   registered again, else it could never come back.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flwr.common.constant import NOOP_FLWR_AID, Status, SubStatus
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NodeStatus
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supercore.state.schema.linkstate_models import Node
from flwr.superlink.servicer.control import control_handlers
from sqlalchemy import delete
from sqlalchemy.exc import SQLAlchemyError

from cloud_hub.training.flwr_access import ACCOUNT
from cloud_hub.training.flwr_fab import ATTEMPT, JOB, empty_fab
from shared.errors import ContractError, TransientError

_HERE = (NodeStatus.REGISTERED, NodeStatus.ONLINE, NodeStatus.OFFLINE)


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One registered node."""

    node_id: int
    device: str
    key: bytes  # PEM, as Flower writes it
    status: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run."""

    run_id: int
    task_id: int
    job: str
    attempt: int
    status: str
    sub_status: str
    details: str

    @property
    def is_finished(self) -> bool:
        """Whether it is over, well or not."""
        return self.status == Status.FINISHED

    @property
    def is_pending(self) -> bool:
        """Whether it waits for a ServerApp to take it."""
        return self.status == Status.PENDING

    @property
    def is_completed(self) -> bool:
        """Whether its ServerApp said that it was done."""
        return self.sub_status == SubStatus.COMPLETED


class FlowerState:
    """See the rules above. Any thread; all raise TransientError `superlink.database`."""

    def __init__(self, state: LinkState) -> None:
        self._state = state
        content = empty_fab()
        self._fab = fab_to_proto(Fab("", content, {}))

    def nodes(self) -> list[NodeRow]:
        """Return the nodes that are registered."""
        with _errors():
            rows = self._state.get_node_info(owner_aids=[NOOP_FLWR_AID], statuses=_HERE)
        return [NodeRow(row.node_id, row.name, row.public_key, row.status) for row in rows]

    def register(self, device: str, key: bytes) -> None:
        """Make a node for a device. Raises ContractError `superlink.refused`."""
        with _errors():
            self._forget(key)
            control_handlers.register_node(
                RegisterNodeRequest(public_key=key, name=device), ACCOUNT, self._state
            )

    def unregister(self, node_id: int) -> None:
        """Take a node away: its key opens nothing from now on."""
        with _errors():
            control_handlers.unregister_node(
                UnregisterNodeRequest(node_id=node_id), ACCOUNT, self._state
            )

    def runs(self, run_ids: Iterable[int] | None = None) -> list[RunRow]:
        """Return these runs, or all; of ours only."""
        with _errors():
            ids = None if run_ids is None else list(run_ids)
            rows = self._state.get_run_info(run_ids=ids, order_by="pending_at")
        return [_run(row) for row in rows if JOB in row.override_config]

    def start(self, job: str, attempt: int) -> int:
        """Make a run, pending; return its id."""
        settings = user_config_to_proto({JOB: job, ATTEMPT: attempt})
        request = StartRunRequest(fab=self._fab, override_config=settings, federation="")
        with _errors():
            response = control_handlers.start_run(request, ACCOUNT, self._state, None)
        return int(response.run_id)

    def claim(self, run: RunRow) -> str | None:
        """Take a pending run for a ServerApp; return its token, None if it is not to be had."""
        with _errors():
            return self._state.claim_task(run.task_id)

    def fail(self, run: RunRow, details: str) -> None:
        """End a run whose ServerApp is not there any more, if it has not ended by itself."""
        with _errors():
            self._state.finish_task(run.task_id, SubStatus.FAILED, details)

    def stop(self, run: RunRow) -> None:
        """End a run that is no longer wanted, and delete its messages."""
        with _errors():
            self._state.stop_run(run.run_id)

    def clean_up(self, run: RunRow) -> None:
        """Delete what a run that is over has left: messages, and the weights in them."""
        with _errors():
            self._state.cleanup_run(run.run_id)

    def _forget(self, key: bytes) -> None:
        gone = delete(Node).where(Node.public_key == key, Node.status == NodeStatus.UNREGISTERED)
        session_of = self._state.session  # type: ignore[attr-defined]  # of its SQL form, which we use
        with session_of() as session:
            session.execute(gone)


def canonical_key(pem: str) -> bytes:
    """Return a public key as Flower writes it. Raises ContractError `superlink.bad_key`."""
    try:
        return public_key_to_bytes(bytes_to_public_key(pem.encode()))
    except (ValueError, AttributeError) as error:
        raise ContractError("superlink.bad_key", f"Not a public key: {error}.") from error


def _run(row: Run) -> RunRow:
    assert row.primary_task_id is not None
    return RunRow(
        run_id=row.run_id,
        task_id=row.primary_task_id,
        job=str(row.override_config[JOB]),
        attempt=int(row.override_config[ATTEMPT]),
        status=row.status.status,
        sub_status=row.status.sub_status,
        details=row.status.details,
    )


@contextmanager
def _errors() -> Iterator[None]:
    """Turn Flower's and the database's exceptions into ours."""
    try:
        yield
    except FlowerError as error:
        raise ContractError("superlink.refused", f"Flower refused: {error}.") from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error))[:200]
        raise TransientError("superlink.database", f"Flower's database: {reason}.") from error
