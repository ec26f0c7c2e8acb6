"""What may not be removed while a cloud Job needs it, and what a delayed result says."""

from dataclasses import replace

import pytest

from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobId, CloudJobState
from cloud_hub.training.cloud.needs import (
    require_checkpoint_free,
    require_dataset_free,
    require_evaluation_set_free,
)
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.cloud.record import JobRecord, advance_result, delay_result
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultEvent, ResultState
from cloud_hub.training.trainer.spec import DistillationMethod
from shared.errors import RefusedError
from shared.ids import LineageId, ModelName
from shared.model.network import DenseNetwork, NetworkSpec
from tests.support.training_runs import MODEL

JOB = CloudJob(
    job_id=CloudJobId("cloud-1"), model=ModelName("tones"),
    order=CloudOrder(
        model="tones", dataset="tones", checkpoint="ckpt-1", teacher="ckpt-2",
        method=DistillationMethod(),
    ),
    dataset=DatasetName("tones"), dataset_version=3, manifest_digest="",
    state=CloudJobState.QUEUED, outcome=None, is_stopping=False, code="", text="", owner="ada",
    created_by="ada", lineage_id=LineageId("line-1"),
    base_checkpoint_id=CheckpointId("ckpt-1"), result_state=ResultState.AWAITED, result_run=None,
    result_checkpoint_id=None, candidate_id=None, release_version=None, value=None,
    value_low=None, value_high=None, created_ms=0, changed_ms=0, started_ms=None,
    finished_ms=None,
)  # fmt: skip
DONE = replace(
    JOB,
    state=CloudJobState.FINISHED,
    outcome=Outcome.COMPLETED,
    code="job.completed",
    text="It was trained.",
    result_state=ResultState.KEEPING,
    result_checkpoint_id=CheckpointId("ckpt-3"),
)


@pytest.mark.parametrize("state", [CloudJobState.QUEUED, CloudJobState.RUNNING])
def test_a_dataset_stays_until_the_last_job_on_it_is_finished(state: CloudJobState) -> None:
    for version in (3, None):
        with pytest.raises(RefusedError, match="Job cloud-1") as caught:
            require_dataset_free([DONE, replace(JOB, state=state)], "tones", version)
        assert caught.value.code == "dataset.needed"
        assert "cloud-hub jobs stop cloud-1" in caught.value.remedy
    require_dataset_free([JOB], "tones", 2)
    require_dataset_free([JOB], "shapes", 3)
    require_dataset_free([DONE], "tones", 3)


@pytest.mark.parametrize("checkpoint", ["ckpt-1", "ckpt-2", "ckpt-3"])
def test_checkpoints_stay_until_a_job_is_settled(checkpoint: str) -> None:
    with pytest.raises(RefusedError, match="cloud-1 needs ckpt-"):
        require_checkpoint_free([DONE], checkpoint)
    require_checkpoint_free([DONE], "ckpt-4")


def test_members_of_an_ensemble_stay_too() -> None:
    order = CloudOrder(model="tones", dataset="tones", ensemble=("ckpt-7", "ckpt-8"))
    with pytest.raises(RefusedError, match="cloud-1 needs ckpt-8"):
        require_checkpoint_free([replace(JOB, order=order)], "ckpt-8")


def test_what_judges_stays_as_long_as_something_is_to_be_judged() -> None:
    with pytest.raises(RefusedError, match="will be judged by 0123456789ab"):
        require_evaluation_set_free([JOB], "tones", "0123456789abcdef")
    require_evaluation_set_free([JOB], "shapes", "0123456789abcdef")


def test_a_delayed_result_says_what_it_waits_for_until_it_goes_on() -> None:
    network = NetworkSpec(architecture=DenseNetwork())
    record = JobRecord(job=DONE, spec=MODEL, network=network, place_id="place-1")
    delayed = delay_result(record, "The store is away.", now_ms=1)
    assert delayed.job.text == "It was trained. Its result waits: The store is away."
    assert delay_result(delayed, "The store is away.", now_ms=2) == delayed
    other = delay_result(delayed, "The disk is full.", now_ms=3)
    assert other.job.text == "It was trained. Its result waits: The disk is full."
    kept = advance_result(other, ResultEvent.KEPT, code="", text="It is kept.", now_ms=4)
    assert (kept.job.code, kept.job.text) == ("job.completed", "It was trained. It is kept.")
