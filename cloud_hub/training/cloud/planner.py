"""Planner: from an order to a Job with its runs' folders; nothing of it is in the database yet.

1. Everything that can be wrong is found here, before anything is written.
2. What runs start from is on the disk, whole, before the Job is queued. A folder that is lost
   afterwards is made again from the row and the checkpoints.
"""

import importlib.util
import io
import secrets
import zipfile

import msgspec

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.candidates.checkpoint_service import CheckpointService
from cloud_hub.candidates.export_files import ExportSettings
from cloud_hub.candidates.process_exporter import check_weights
from cloud_hub.datasets.service import DatasetService
from cloud_hub.training.cloud.cloud_job import ID_PREFIX, CloudJob, CloudJobId, CloudJobState, Run
from cloud_hub.training.cloud.file_runs import RunFolders
from cloud_hub.training.cloud.order import CloudOrder, ExecutorName
from cloud_hub.training.cloud.order_checks import Facts, check_order, check_prefixes, choose_model
from cloud_hub.training.cloud.record import JobRecord
from cloud_hub.training.cloud.run_plan import train_spec
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.lifecycle import ResultState
from cloud_hub.training.trainer.run_files import TEACHER, WEIGHTS
from cloud_hub.training.trainer.spec import AllTrained
from shared.errors import ContractError, RefusedError
from shared.ids import ModelName, new_lineage_id
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec

MEMBER = "member-{index}.npz"
OWNER_CHARS_MAX = 80


class Planner:
    """See the rules above. Safe to share between threads."""

    def __init__(
        self,
        datasets: DatasetService,
        checkpoints: CheckpointService,
        folders: RunFolders,
        settings: CloudTrainingSettings,
    ) -> None:
        self._datasets = datasets
        self._checkpoints = checkpoints
        self._folders = folders
        self._settings = settings

    def plan(self, order: CloudOrder, *, by: str, now_ms: int) -> JobRecord:
        """Return the Job that an order makes.

        Takes seconds where the network is new: it is built once, in a process of its own. Raises
        ContractError `order.…` naming the field, RefusedError `dataset.unknown`,
        `checkpoint.unknown`, `training.…`, TransientError.
        """
        self._require_installed(order)
        facts = self._facts(order)
        spec, network = choose_model(order, facts)
        check_order(order, facts, spec, network, self._settings)
        self._check_network(order, facts, spec, network)
        version = facts.version
        owner = (order.owner or by)[:OWNER_CHARS_MAX]
        frozen = msgspec.structs.replace(order, dataset_version=version.version, owner=owner)
        base = facts.base
        job = CloudJob(
            job_id=CloudJobId(ID_PREFIX + secrets.token_hex(5)),
            model=ModelName(order.model),
            order=frozen,
            dataset=version.dataset,
            dataset_version=version.version,
            manifest_digest=version.digest,
            state=CloudJobState.QUEUED,
            outcome=None,
            is_stopping=False,
            code="",
            text="",
            owner=owner,
            created_by=by[:OWNER_CHARS_MAX],
            # A model goes on in its line; one that begins anew begins in its data's.
            lineage_id=base.lineage_id if base is not None else new_lineage_id(),
            base_checkpoint_id=base.checkpoint_id if base is not None else None,
            result_state=ResultState.AWAITED,
            result_run=None,
            result_checkpoint_id=None,
            candidate_id=None,
            release_version=None,
            value=None,
            value_low=None,
            value_high=None,
            created_ms=now_ms,
            changed_ms=now_ms,
            started_ms=None,
            finished_ms=None,
        )
        return JobRecord(job=job, spec=spec, network=network, place_id=self._folders.place_id)

    def prepare_job(self, record: JobRecord) -> None:
        """Write what all runs of a Job start from, unless it is there.

        Raises RefusedError `checkpoint.unknown`, IntegrityError, TransientError.
        """
        order = record.job.order
        wanted = [(MEMBER.format(index=i), name) for i, name in enumerate(order.ensemble)]
        wanted += [(WEIGHTS, order.checkpoint)] if order.checkpoint else []
        wanted += [(TEACHER, order.teacher)] if order.teacher else []
        for file, checkpoint in wanted:
            if not self._folders.has_shared(record.job.job_id, file):
                data = self._checkpoints.weights(checkpoint)
                self._folders.keep_shared(record.job.job_id, file, data)

    def prepare_run(self, record: JobRecord, run: Run) -> None:
        """Make a run's folder whole, unless it is. Raises as `prepare_job`, and ContractError."""
        if self._folders.is_whole(run.key):
            return
        self.prepare_job(record)
        teacher = record.job.order.teacher
        spec = train_spec(
            record,
            run,
            objects=self._datasets.objects_place,
            cache=str(self._folders.cache.resolve()),
            teacher=self._checkpoints.get(teacher).network if teacher else None,
        )
        self._folders.prepare(record.job.job_id, run.key, spec)

    def _facts(self, order: CloudOrder) -> Facts:
        dataset = self._datasets.get(order.dataset)
        version = self._datasets.version(order.dataset, order.dataset_version)
        base = self._checkpoints.get(order.checkpoint) if order.checkpoint else None
        teacher = self._checkpoints.get(order.teacher) if order.teacher else None
        members = tuple(self._checkpoints.get(name) for name in order.ensemble)
        return Facts(dataset=dataset, version=version, base=base, teacher=teacher, members=members)

    def _check_network(
        self, order: CloudOrder, facts: Facts, spec: ModelSpec, network: NetworkSpec
    ) -> None:
        """Return if the network can be built and has the parameters that the order names."""
        own = facts.base if not order.is_transfer else None
        if own is None:
            # Drawn once and thrown away: what does not fit is said now, not by a trainer.
            names = _names(check_weights(spec, network, None, ExportSettings()).weights_bytes)
        elif isinstance(order.trained, AllTrained):
            return
        else:
            names = self._names_of(own)
        check_prefixes(order, names)

    def _names_of(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        return _names(self._checkpoints.weights(checkpoint.checkpoint_id))

    def _require_installed(self, order: CloudOrder) -> None:
        needed = ["torch"]
        needed += ["optuna"] if order.search is not None else []
        needed += ["ray"] if order.executor is ExecutorName.RAY else []
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            extra = "ray" if missing == ["ray"] else "train"
            raise RefusedError(
                "training.not_installed",
                f"This hub has not installed what the order needs: {', '.join(missing)}.",
                remedy=f'pip install "isthmus[hub,{extra}]", and restart the hub.',
            )


def _names(weights_bytes: bytes) -> tuple[str, ...]:
    """Return the names of an .npz file's arrays, without reading them."""
    try:
        with zipfile.ZipFile(io.BytesIO(weights_bytes)) as zipped:
            return tuple(name.removesuffix(".npy") for name in zipped.namelist())
    except zipfile.BadZipFile as error:
        raise ContractError("weights.invalid", f"Not a file of weights: {error}.") from error
