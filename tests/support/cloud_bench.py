"""CloudBench: a hub's CloudJobService over a real database and disk; only what trains is played."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.datasets.dataset import Dataset, DatasetName, DatasetVersion
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobState, Run
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.cloud.service import CloudJobService
from cloud_hub.training.cloud.settings import CloudTrainingSettings
from cloud_hub.training.lifecycle import ResultState
from cloud_hub.training.trainer.spec import Recipe
from shared.errors import RefusedError
from shared.ids import LineageId
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from tests.support.learning_bench import MODEL, CheckpointShelf, ReleaseGate
from tests.support.manual_clock import ManualClock
from tests.support.played_trainer import PLAY, Play
from tests.support.waiting import wait_until

TRAINER = (str(Path(__file__).with_name("played_trainer.py")),)
SETTINGS = CloudTrainingSettings(stop_s_max=2.0)
DIGEST = "a" * 64


class StateShelf(CheckpointShelf):
    """Checkpoints that come of cloud Jobs too."""

    def add_state(
        self,
        spec: ModelSpec,
        network: NetworkSpec,
        weights_bytes: bytes,
        *,
        origin: str,
        lineage_id: LineageId,
    ) -> Checkpoint:
        made = self.put(spec.model, weights_bytes, origin=origin, lineage_id=lineage_id)
        assert network == made.network
        self.on_add()
        return made


class DatasetShelf:
    """One dataset of windows. Answers as DatasetService does."""

    objects_place = "nowhere"

    def __init__(self) -> None:
        self.labelled_count = 10
        self.classes: dict[str, int] = {"a": 5, "b": 5}
        self.parts = {Part.TRAIN: 8, Part.VALIDATION: 2, Part.TEST: 2}
        self.kind = ItemKind.WINDOW

    def get(self, name: str) -> Dataset:
        newest = self.version(name, None)
        return Dataset(DatasetName(name), self.kind, ("a", "b"), "ada", 0, newest)

    def version(self, name: str, number: int | None = None) -> DatasetVersion:
        if name != "tones":
            raise RefusedError("dataset.unknown", f"There is no dataset {name}.")
        return DatasetVersion(
            dataset=DatasetName(name),
            version=number or 3,
            digest=DIGEST,
            parent=None,
            items_count=12,
            labelled_count=self.labelled_count,
            counts_by_part=self.parts,
            counts_by_class=self.classes,
            bytes_count=100,
            lineage_id=LineageId("line-data"),
            note="",
            created_ms=0,
            created_by="ada",
        )


class CloudBench:
    """What a test of cloud Jobs needs, together."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.clock = ManualClock()
        self.checkpoints = StateShelf()
        self.gate = ReleaseGate(self.checkpoints)
        self.datasets = DatasetShelf()
        self.objects = ObjectStore(str(folder / "objects"))
        self.first = self.checkpoints.draw(MODEL)
        self._services: list[CloudJobService] = []
        self.cloud = self.new_service()

    def new_service(self, settings: CloudTrainingSettings = SETTINGS) -> CloudJobService:
        """A hub's service that starts now, over the same disk and database."""
        service = CloudJobService(
            self.database,
            self.datasets,  # type: ignore[arg-type]
            self.gate,  # type: ignore[arg-type]
            self.objects,
            self.clock,
            folder=self.folder / "training",
            settings=settings,
            trainer=TRAINER,
        )
        self._services.append(service)
        return service

    def lose(self, service: CloudJobService) -> None:
        """Be a hub that is gone: it says no more, and its lease runs out."""
        for executor in service._executors.values():
            executor.close()
        self._services.remove(service)
        self.clock.advance(SETTINGS.lease_s + 1.0)

    def forget(self, service: CloudJobService) -> None:
        """Let a hub tick no more."""
        self._services.remove(service)

    def close(self) -> None:
        """End everything that runs."""
        for service in self._services:
            for executor in service._executors.values():
                executor.close()
        for folder in self.runs_folder.iterdir():
            if (folder / "starts").is_file():
                for pid in (folder / "starts").read_text().split():
                    self._kill(int(pid), folder)

    @property
    def runs_folder(self) -> Path:
        return self.folder / "training" / "runs"

    def run_folder(self, job: str, index: int = 0) -> Path:
        return self.runs_folder / f"{job}-{index}"

    def play(self, **plays: Play) -> None:
        """Say what runs do: `all` for every one."""
        self.runs_folder.joinpath(PLAY).write_bytes(
            msgspec.json.encode({"*" if name == "all" else name: p for name, p in plays.items()})
        )

    def play_run(self, key: str, play: Play) -> None:
        self.runs_folder.joinpath(PLAY).write_bytes(msgspec.json.encode({key: play}))

    def order(self, **changes: object) -> CloudOrder:
        fields: dict[str, object] = {
            "model": MODEL,
            "dataset": "tones",
            "checkpoint": self.first.checkpoint_id,
            "recipe": Recipe(epochs=3),
        }
        return CloudOrder(**{**fields, **changes})  # type: ignore[arg-type]

    def submit(self, **changes: object) -> str:
        self.clock.advance(0.01)  # Jobs of one instant have no order
        return self.cloud.submit(self.order(**changes), by="ada").job_id

    def go(self, job: str, index: int = 0) -> None:
        """Let a run that waits go on."""
        (self.run_folder(job, index) / "go").touch()

    def until(self, condition: Callable[[], object], *, seconds_max: float = 20.0) -> None:
        """Let hubs tick until something is so."""

        def step() -> object:
            for service in self._services:
                service.tick()
                service.settle()
            self.clock.advance(0.1)
            return condition()

        wait_until(step, seconds_max=seconds_max)

    def finish(self, job: str, *, seconds_max: float = 20.0) -> CloudJob:
        """Let hubs tick until a Job and its result are done."""
        self.until(lambda: self.is_settled(job), seconds_max=seconds_max)
        return self.cloud.get(job)

    def is_settled(self, job: str) -> bool:
        return self.cloud.get(job).result_state is ResultState.SETTLED

    def run(self, job: str, index: int = 0) -> Run:
        return self.cloud.runs(job)[index]

    def starts(self, job: str, index: int = 0) -> list[int]:
        """Ids of the processes that trained a run, oldest first."""
        path = self.run_folder(job, index) / "starts"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def until_at(self, job: str, epoch: int, index: int = 0) -> None:
        """Let hubs tick until a run has done so many epochs."""

        def is_there() -> bool:
            runs = self.cloud.runs(job)
            return len(runs) > index and (
                runs[index].state is CloudJobState.RUNNING and runs[index].progress.epoch >= epoch
            )

        self.until(is_there)

    @staticmethod
    def _kill(pid: int, folder: Path) -> None:
        try:
            if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        except (OSError, ProcessLookupError):
            pass
