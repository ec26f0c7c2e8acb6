"""Cloud Jobs with nothing played: real data, the real trainer, the real gate."""

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from cloud_hub.datasets.service import DatasetService
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.cloud.service import CloudJobService
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState
from cloud_hub.training.trainer.spec import PartTrained
from shared.clock import SystemClock
from shared.errors import ContractError
from shared.model.network import DenseNetwork, EnsembleNetwork, NetworkSpec
from tests.support.release_hub import open_hub
from tests.support.training_runs import CLASSES, MODEL, NETWORK, recipe, shapes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def test_a_model_is_trained_fine_tuned_joined_explained_and_released(
    migrated_sqlite_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database, clock = Database(f"sqlite:///{tmp_path}/hub.db"), SystemClock()
    objects = ObjectStore(str(tmp_path / "objects"))
    datasets = DatasetService(database, objects, clock, folder=tmp_path / "datasets")
    datasets.open()
    datasets.import_file("shapes", _pictures(tmp_path / "shapes"), by="ada")
    releases = open_hub(tmp_path, database, clock=clock)
    cloud = CloudJobService(
        database, datasets, releases, objects, clock, folder=tmp_path / "training"
    )

    def order(**changes: object) -> CloudOrder:
        fields: dict[str, object] = {
            "model": MODEL.model, "dataset": "shapes", "device": "cpu",
            "recipe": recipe(epochs=8.0), "is_released": False, "is_explained": False,
        }  # fmt: skip
        return CloudOrder(**{**fields, **changes})  # type: ignore[arg-type]

    def finish(given: CloudOrder) -> str:
        job = cloud.submit(given, by="ada").job_id
        wait_until(_step(cloud, job), seconds_max=60.0)
        return job

    try:
        first = finish(order(spec=MODEL, network=NETWORK))
        base = cloud.get(first)
        assert (base.outcome, base.code) == (Outcome.COMPLETED, "job.completed"), base.text
        assert base.value is not None
        assert base.value > 0.6
        second = finish(order(checkpoint=base.result_checkpoint_id, seed=1))
        tuned = cloud.get(second)
        assert tuned.lineage_id == base.lineage_id
        members = (base.result_checkpoint_id, tuned.result_checkpoint_id)
        joined = cloud.get(
            finish(order(ensemble=members, checkpoint=None, is_released=True, is_explained=True))
        )
        assert (joined.outcome, joined.release_version) == (Outcome.COMPLETED, 1), joined.text
        assert joined.result_checkpoint_id is not None
        kept = releases.checkpoints.get(joined.result_checkpoint_id)
        assert isinstance(kept.network.architecture, EnsembleNetwork)
        report = cloud.report(joined.job_id)
        assert report is not None
        assert report.weights_digest == kept.weights_digest
        plot = cloud.plot(joined.job_id, report.plots[0].file)
        assert plot is not None
        assert plot.startswith(b"\x89PNG")
        compared = cloud.compare(first, second)
        assert {pair.path for pair in compared.settings} >= {"seed", "checkpoint"}
        curve = cloud.curve(first)
        assert len(curve.evaluations) == 8
        assert curve.attempts[0].items_by_part["train"] > 0
        assert cloud.usage()[0].device_seconds > 0
        trained = PartTrained(prefixes=("tail",))
        with pytest.raises(ContractError, match="begins with 'tail'"):
            cloud.submit(order(checkpoint=base.result_checkpoint_id, trained=trained))
        strange = NetworkSpec(architecture=DenseNetwork())
        with pytest.raises(ContractError, match="is not that of"):
            cloud.submit(order(checkpoint=base.result_checkpoint_id, network=strange))
    finally:
        cloud.close()
        database.close()


def _pictures(folder: Path) -> Path:
    pictures, labels = shapes(240)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / CLASSES[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index:03d}.png"), picture)
    return folder


def _step(cloud: CloudJobService, job: str) -> Callable[[], bool]:
    def step() -> bool:
        cloud.tick()
        cloud.settle()
        return cloud.get(job).result_state is ResultState.SETTLED

    return step
