"""LearningBench: a hub's TrainingService over a real database and disk, its SuperLink played."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cloud_hub.candidates.candidate import Candidate, CandidateId, GateRefusedError, Reason, Verdict
from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from cloud_hub.training.job import Job, JobId, JobState
from cloud_hub.training.order import JobOrder
from cloud_hub.training.process_superlink import SuperLinkProcess
from cloud_hub.training.service import TrainingService
from cloud_hub.training.settings import LearningHubSettings
from shared.errors import RefusedError
from shared.ids import DeviceId, LineageId, ModelName
from shared.model.network import DenseNetwork, NetworkSpec
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.model.weights import decode_weights, digest_weights, encode_weights
from tests.support.enrolled import enrol, make_devices
from tests.support.learning_peer import LearningPeer
from tests.support.manual_clock import ManualClock

MODEL = ModelName("tones")
OTHER = ModelName("other")
SETTINGS = LearningHubSettings(jobs_max=2)


def spec_of(model: str) -> ModelSpec:
    return ModelSpec(
        model=model,
        task=Task.CLASSIFICATION,
        input=WindowInput(samples=16),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
    )


class CheckpointShelf:
    """Checkpoints for tests that build no networks. Answers as CheckpointService does."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Checkpoint, bytes]] = {}
        self.on_add: Callable[[], None] = lambda: None

    def put(self, model: str, data: bytes, *, origin: str, lineage_id: LineageId) -> Checkpoint:
        digest = digest_weights(decode_weights(data))
        checkpoint = Checkpoint(
            checkpoint_id=CheckpointId(f"ckpt-{digest[:12]}-{origin[-5:]}"),
            model=ModelName(model),
            spec=spec_of(model),
            network=NetworkSpec(architecture=DenseNetwork()),
            weights_digest=digest,
            parameters_count=4,
            lineage_id=lineage_id,
            origin=origin,
            created_ms=len(self.kept),
        )
        self.kept[checkpoint.checkpoint_id] = (checkpoint, data)
        return checkpoint

    def draw(self, model: str) -> Checkpoint:
        weights = {
            "layer.weight": np.arange(4, dtype=np.float32) + len(self.kept),
            "count": np.zeros((), np.int64),
        }
        data = encode_weights(weights)
        return self.put(model, data, origin="drawn", lineage_id=LineageId("line-0"))

    def add_trained(
        self, base: Checkpoint, weights_bytes: bytes, *, origin: str, lineage_id: LineageId
    ) -> Checkpoint:
        made = self.put(base.model, weights_bytes, origin=origin, lineage_id=lineage_id)
        self.on_add()
        return made

    def get(self, checkpoint_id: str) -> Checkpoint:
        if checkpoint_id not in self.kept:
            raise RefusedError("checkpoint.unknown", f"There is no checkpoint {checkpoint_id!r}.")
        return self.kept[checkpoint_id][0]

    def newest(self, model: str) -> Checkpoint | None:
        return next((c for c, _ in reversed(self.kept.values()) if c.model == model), None)

    def weights(self, checkpoint_id: str) -> bytes:
        return self.kept[self.get(checkpoint_id).checkpoint_id][1]


@dataclass(frozen=True)
class LearntRelease:
    model: str
    version: int
    candidate_id: CandidateId

    @property
    def name(self) -> str:
        return f"{self.model}:{self.version}"


@dataclass
class ReleaseGate:
    """The gate and the releases behind it, in memory: the same content is the same release."""

    checkpoints: CheckpointShelf
    refuses: bool = False
    released: dict[str, LearntRelease] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    on_add: Callable[[], None] = lambda: None

    def add_trained(
        self,
        checkpoint: Checkpoint,
        *,
        notes: str = "",
        metrics: dict[str, float] | None = None,
        lineage_id: LineageId | None = None,
    ) -> LearntRelease:
        assert lineage_id == checkpoint.lineage_id
        assert checkpoint.origin in notes
        assert metrics
        self.asked.append(checkpoint.checkpoint_id)
        candidate_id = CandidateId(f"cand-{len(self.asked)}")
        if self.refuses:
            raise GateRefusedError(_refused(candidate_id, checkpoint))
        release = self.released.setdefault(
            checkpoint.weights_digest,
            LearntRelease(checkpoint.model, len(self.released) + 1, candidate_id),
        )
        self.on_add()
        return release


def _refused(candidate_id: CandidateId, checkpoint: Checkpoint) -> Candidate:
    reason = Reason("gate.quality", "It is worse than the release it would replace.")
    made = Candidate(
        candidate_id=candidate_id,
        model=checkpoint.model,
        content_digest=checkpoint.weights_digest,
        lineage_id=checkpoint.lineage_id,
        precision="fp32",
        created_ms=0,
        verdict=Verdict(is_passed=False, reasons=(reason,)),
    )
    return replace(made)


class LearningBench:
    """What a test of the TrainingService needs, together."""

    def __init__(self, database: Database, folder: Path, clock: ManualClock | None = None) -> None:
        self.database, self.folder = database, folder
        self.clock = clock or ManualClock()
        self.learning = folder / "learning"
        self.devices: DeviceService = make_devices(database, folder, self.clock)
        self.checkpoints = CheckpointShelf()
        self.gate = ReleaseGate(self.checkpoints)
        self.peer = LearningPeer(self.learning, self.clock)
        self.first = self.checkpoints.draw(MODEL)
        self.training = self.new_service()

    def new_service(self, settings: LearningHubSettings = SETTINGS) -> TrainingService:
        """The service of a hub process that starts now, over the same disk and database."""
        path = self.folder / "unused.pem"
        superlink = SuperLinkProcess(
            self.learning / "superlink",
            ca_path=path,
            certificate_path=path,
            key_path=path,
            settings=settings,
            clock=self.clock,
        )
        return TrainingService(
            self.database,
            self.devices,
            self.gate,  # type: ignore[arg-type]
            superlink,
            self.clock,
            learning=self.learning,
            settings=settings,
        )

    def restart(self) -> None:
        """End the hub's process and start another."""
        self.training = self.new_service()

    def enrol(self, count: int = 3, *, group: str = "lab") -> tuple[DeviceId, ...]:
        """More devices, in order of id."""
        return tuple(sorted(enrol(self.devices, groups=(group,)) for _ in range(count)))

    def order(self, **changes: object) -> JobOrder:
        """An order for the group."""
        fields: dict[str, object] = {"model": MODEL, "group": "lab", "rounds": 2}
        return JobOrder(**{**fields, **changes})  # type: ignore[arg-type]

    def start(self, **changes: object) -> JobId:
        return self.training.start(self.order(**changes), actor="ada").job_id

    def step(self, times: int = 1) -> None:
        """Let hub and SuperLink each do a step."""
        for _ in range(times):
            self.training.tick()
            self.peer.step()
            self.clock.advance(1.0)

    def running(self, **changes: object) -> JobId:
        """A Job that runs."""
        job_id = self.start(**changes)
        self.step(3)
        assert self.job(job_id).state is JobState.RUNNING
        return job_id

    def job(self, job_id: JobId) -> Job:
        return self.training.get(job_id)

    def codes(self, job_id: JobId) -> list[str]:
        """What happened, oldest first."""
        return [event.code for event in self.training.events(job_id)]
