"""CheckpointService: networks with weights, checked, kept, and given out to train from.

1. Weights are checked or drawn by a process of its own (torch_export.py); what is kept is written
   by it, in the order of the network's own state.
2. The same weights for the same specs from the same origin are the same checkpoint: whoever is
   killed in between adds again.
3. Weights lie in the object store under `checkpoints/<digest>.npz`, where no device can read.
4. The newest CHECKPOINTS_KEPT_MAX of each model are kept; older ones go when one is added. Weights
   go with the last checkpoint that has them.
"""

import logging
import threading

import msgspec

from cloud_hub.candidates import sql_store_checkpoints as sql_store
from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.candidates.export_files import ExportSettings
from cloud_hub.candidates.process_exporter import CheckedWeights, check_weights
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, IntegrityError, RefusedError
from shared.ids import LineageId, new_lineage_id, parse_model_name
from shared.model.network import NetworkSpec, parse_network
from shared.model.spec import ModelSpec, encode_spec, parse_spec
from shared.release.digest import digest_of

log = logging.getLogger(__name__)

CHECKPOINTS_KEPT_MAX = 100  # Of one model
CHECKPOINTS_SHOWN_MAX = 1000
FOLDER = "checkpoints"
UPLOADED = "uploaded"
DRAWN = "drawn"


class CheckpointService:
    """See the rules above. Safe to share between threads of one process."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        clock: Clock,
        settings: ExportSettings | None = None,
    ) -> None:
        """Start without touching anything."""
        self._database = database
        self._store = store
        self._clock = clock
        self._settings = settings or ExportSettings()
        self._storing = threading.Lock()  # Weights are not removed while they are being added

    def add(
        self,
        *,
        spec_bytes: bytes,
        network_bytes: bytes,
        weights_bytes: bytes | None,
        lineage_id: LineageId | None = None,
        origin: str = UPLOADED,
    ) -> Checkpoint:
        """Return a checkpoint of uploaded weights, or of fresh ones where none are given.

        Takes seconds: the network is built in a process of its own.

        Args:
            spec_bytes: the ModelSpec as TOML.
            network_bytes: the NetworkSpec as TOML.
            weights_bytes: .npz, one array for each name of the network's state; None: drawn.
            lineage_id: what it came from, or None where nothing is known.
            origin: where the weights came from; "drawn" is said where none are given.

        Raises ContractError `config.invalid`, `network.unfit`, `weights.invalid` or
        `weights.misfit` (naming the parameter), RefusedError `export.failed`, TransientError.
        """
        return self._add(
            parse_spec(spec_bytes),
            parse_network(network_bytes),
            weights_bytes,
            lineage_id=lineage_id or new_lineage_id(),
            origin=origin if weights_bytes is not None else DRAWN,
        )

    def add_trained(
        self, base: Checkpoint, weights_bytes: bytes, *, origin: str, lineage_id: LineageId
    ) -> Checkpoint:
        """Return a checkpoint of weights that were trained from `base`. Raises as `add`."""
        return self.add_state(
            base.spec, base.network, weights_bytes, origin=origin, lineage_id=lineage_id
        )

    def add_state(
        self,
        spec: ModelSpec,
        network: NetworkSpec,
        weights_bytes: bytes,
        *,
        origin: str,
        lineage_id: LineageId,
    ) -> Checkpoint:
        """Return a checkpoint of a state of `network` that was trained here. Raises as `add`."""
        return self._add(spec, network, weights_bytes, lineage_id=lineage_id, origin=origin)

    def get(self, checkpoint_id: str) -> Checkpoint:
        """Return one checkpoint. Raises RefusedError `checkpoint.unknown`."""
        with self._database.read() as connection:
            found = sql_store.find_checkpoint(connection, checkpoint_id)
        if found is None:
            text = f"There is no checkpoint {checkpoint_id[:80]!r}."
            raise RefusedError("checkpoint.unknown", text)
        return found

    def newest(self, model: str) -> Checkpoint | None:
        """Return the checkpoint that was added last for a model, or None."""
        return next(iter(self.list(model, limit=1)), None)

    def list(self, model: str | None = None, *, limit: int = 100) -> tuple[Checkpoint, ...]:
        """Return the checkpoints of one model or of all, newest first."""
        with self._database.read() as connection:
            return sql_store.select_checkpoints(
                connection, model=model, limit=min(limit, CHECKPOINTS_SHOWN_MAX)
            )

    def weights(self, checkpoint_id: str) -> bytes:
        """Return a checkpoint's weights, .npz bytes.

        Whoever decodes them compares shared.model.weights.digest_weights with `weights_digest`.
        Raises RefusedError `checkpoint.unknown`, IntegrityError `checkpoint.damaged`,
        TransientError.
        """
        found = self.get(checkpoint_id)
        data = self._store.get(_key(found.weights_digest))
        if data is None:
            raise IntegrityError(
                "checkpoint.damaged",
                f"The weights of {checkpoint_id} are missing from the object store.",
                remedy="Put the object store back from a backup, or remove the checkpoint.",
            )
        return data

    def remove(self, checkpoint_id: str) -> None:
        """Forget a checkpoint. Raises RefusedError `checkpoint.unknown`, TransientError."""
        found = self.get(checkpoint_id)
        with self._storing:
            self._forget((found,))

    def _add(
        self,
        spec: ModelSpec,
        network: NetworkSpec,
        weights_bytes: bytes | None,
        *,
        lineage_id: LineageId,
        origin: str,
    ) -> Checkpoint:
        _check_origin(origin)
        checked = check_weights(spec, network, weights_bytes, self._settings)
        with self._storing:
            checkpoint = self._store_checked(checked, spec, network, lineage_id, origin)
        log.info(
            "checkpoint.added",
            extra={"model": checkpoint.model, "checkpoint": checkpoint.checkpoint_id},
        )
        return self.get(checkpoint.checkpoint_id)

    def _store_checked(
        self,
        checked: CheckedWeights,
        spec: ModelSpec,
        network: NetworkSpec,
        lineage_id: LineageId,
        origin: str,
    ) -> Checkpoint:
        newest = self.newest(spec.model)
        checkpoint = Checkpoint(
            checkpoint_id=_identity(spec, network, checked.weights_digest, origin),
            model=parse_model_name(spec.model),
            spec=spec,
            network=network,
            weights_digest=checked.weights_digest,
            parameters_count=checked.parameters_count,
            lineage_id=lineage_id,
            origin=origin,
            # Two within a millisecond, or under a clock that was put back, stay in order.
            created_ms=max(now_ms(self._clock), newest.created_ms + 1 if newest else 0),
        )
        self._store.put(_key(checkpoint.weights_digest), checked.weights_bytes)
        with self._database.begin() as connection:
            sql_store.insert_checkpoint(connection, checkpoint)
            old = sql_store.select_oldest(
                connection, checkpoint.model, kept_max=CHECKPOINTS_KEPT_MAX
            )
        self._forget(old)
        return checkpoint

    def _forget(self, old: tuple[Checkpoint, ...]) -> None:
        for checkpoint in old:
            with self._database.begin() as connection:
                is_last = sql_store.delete_checkpoint(connection, checkpoint)
            if is_last:
                self._store.delete(_key(checkpoint.weights_digest))


def _identity(
    spec: ModelSpec, network: NetworkSpec, weights_digest: str, origin: str
) -> CheckpointId:
    network_json = msgspec.json.encode(network, order="deterministic").decode()
    parts = (encode_spec(spec).decode(), network_json, weights_digest, origin)
    return CheckpointId("ckpt-" + digest_of("\n".join(parts).encode())[:20])


def _check_origin(origin: str) -> None:
    if not 0 < len(origin) <= sql_store.ORIGIN_CHARS_MAX:
        raise ContractError(
            "checkpoint.origin",
            f"origin must have 1 to {sql_store.ORIGIN_CHARS_MAX} characters.",
        )


def _key(digest: str) -> str:
    return f"{FOLDER}/{digest}.npz"
