"""Sentences about Jobs in the cloud: every state, every method and every event has one."""

from dataclasses import replace

import pytest

from cloud_hub.api.cloud_job_words import (
    cloud_job_text,
    event_text,
    method_text,
    order_text,
    run_name,
    run_text,
    sentence,
)
from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.training.cloud.cloud_job import (
    CloudJob,
    CloudJobId,
    CloudJobState,
    EndReason,
    Run,
    RunKind,
    RunProgress,
)
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState
from cloud_hub.training.trainer.run_files import Evaluated, Noted, Progressed, Saved, Started
from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    ContrastiveMethod,
    DistillationMethod,
    GenerativeMethod,
    LowRankTrained,
    MaskedMethod,
    Method,
    PseudoLabelMethod,
    Recipe,
    SupervisedMethod,
)
from shared.ids import LineageId, ModelName

ORDER = CloudOrder(model="m", dataset="d", checkpoint="ckpt-1", recipe=Recipe(epochs=3))
JOB = CloudJob(
    job_id=CloudJobId("cloud-1"),
    model=ModelName("m"),
    order=ORDER,
    dataset=DatasetName("d"),
    dataset_version=2,
    manifest_digest="a" * 64,
    state=CloudJobState.QUEUED,
    outcome=None,
    is_stopping=False,
    code="",
    text="",
    owner="ada",
    created_by="ada",
    lineage_id=LineageId("line-1"),
    base_checkpoint_id=CheckpointId("ckpt-1"),
    result_state=ResultState.AWAITED,
    result_run=None,
    result_checkpoint_id=None,
    candidate_id=None,
    release_version=None,
    value=None,
    value_low=None,
    value_high=None,
    created_ms=1,
    changed_ms=1,
    started_ms=None,
    finished_ms=None,
)
RUN = Run(
    job_id=JOB.job_id,
    index=3,
    kind=RunKind.TRIAL,
    params={},
    fold=None,
    state=CloudJobState.QUEUED,
    outcome=None,
    end_reason=None,
    code="",
    text="",
    attempt=0,
    deaths=0,
    value=None,
    best_epoch=None,
    progress=RunProgress(),
    created_ms=1,
    started_ms=None,
    finished_ms=None,
)
DONE = replace(JOB, state=CloudJobState.FINISHED, outcome=Outcome.COMPLETED, text="It was trained")
HALFWAY = RunProgress(
    step=5, steps_total=10, epoch=0.5, loss=0.25, items_per_s=1200.0, best_value=0.9, device="cpu"
)


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (JOB, "It waits until there is room to train."),
        (replace(JOB, state=CloudJobState.RUNNING), "It trains."),
        (
            replace(JOB, state=CloudJobState.RUNNING, is_stopping=True, text="ada stopped it."),
            "It is being stopped. ada stopped it.",
        ),
        (DONE, "Completed. It was trained. What came of it is looked at next."),
        (
            replace(DONE, result_state=ResultState.RELEASING),
            "Completed. It was trained. The gate judges it now.",
        ),
        (replace(DONE, result_state=ResultState.SETTLED), "Completed. It was trained."),
        (
            replace(DONE, outcome=Outcome.FAILED, text="", result_state=ResultState.SETTLED),
            "Failed.",
        ),
    ],
)
def test_a_job_says_how_it_stands(job: CloudJob, text: str) -> None:
    assert cloud_job_text(job) == text


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (RUN, "It waits for room."),
        (replace(RUN, attempt=2, text="It died"), "It will be tried again. It died."),
        (replace(RUN, state=CloudJobState.RUNNING), "Its process starts."),
        (
            replace(RUN, state=CloudJobState.RUNNING, progress=HALFWAY),
            "Epoch 0.50, step 5 of 10, loss 0.2500, best 0.9000, 1,200 items/s, on cpu.",
        ),
        (
            replace(RUN, state=CloudJobState.RUNNING, end_reason=EndReason.PRUNE),
            "Its process starts. It was asked to end (prune).",
        ),
        (
            replace(RUN, state=CloudJobState.FINISHED, outcome=Outcome.COMPLETED, value=0.5),
            "Completed. Value 0.5000.",
        ),
        (
            replace(
                RUN,
                state=CloudJobState.FINISHED,
                outcome=Outcome.STOPPED,
                end_reason=EndReason.PRUNE,
            ),
            "Ended early by the search.",
        ),
    ],
)
def test_a_run_says_how_it_stands(run: Run, text: str) -> None:
    assert run_text(run) == text


def test_runs_are_named_by_what_they_are_for() -> None:
    assert run_name(RUN) == "Trial 3"
    assert run_name(replace(RUN, kind=RunKind.FOLD, fold=1)) == "Fold 1"
    assert {run_name(replace(RUN, kind=kind, fold=0)) for kind in RunKind} == {
        "The run", "Fold 0", "Trial 3", "The model itself", "The ensemble",
        "The report",
    }  # fmt: skip


def test_an_order_is_one_sentence() -> None:
    assert order_text(JOB) == (
        "ada ordered a Job that trains: m on d:2, starting from ckpt-1, on labels, 3 epochs, "
        "batch 256, sgd at 0.1."
    )
    lora = CloudOrder(model="m", dataset="d", checkpoint="ckpt-1", trained=LowRankTrained(rank=4))
    assert "by LoRA of rank 4" in order_text(replace(JOB, order=lora))
    joined = CloudOrder(model="m", dataset="d", ensemble=("ckpt-1", "ckpt-2"))
    text = order_text(replace(JOB, order=joined, base_checkpoint_id=None))
    assert text == "ada ordered a Job that joins 2 checkpoints: m on d:2, from ckpt-1, ckpt-2."
    folds = CloudOrder(model="m", dataset="d", checkpoint="ckpt-1", folds=5)
    assert "trains 5 folds" in order_text(replace(JOB, order=folds))


@pytest.mark.parametrize(
    "method",
    [
        SupervisedMethod(), DistillationMethod(), AdversarialMethod(), ContrastiveMethod(),
        MaskedMethod(), PseudoLabelMethod(), GenerativeMethod(),
    ],
)  # fmt: skip
def test_every_method_has_words(method: Method) -> None:
    assert method_text(method)


def test_every_event_is_a_sentence() -> None:
    begun = Started(1, None, "cpu: 1 thread", "fp32", 1, 100, 40, {"train": 1000}, 80)
    events = (
        begun,
        Started(1, 7, "cpu", "fp32", 2, 100, 40, {}, 80),
        Progressed(1, 5, 0.5, 0.1, 0.01, 1000.0, 2.0, 1),
        Evaluated(1, 5, 0.5, {"accuracy": 0.5}, 0.5, is_best=True),
        Saved(1, 5),
        Noted(1, "patience ran out"),
    )
    texts = [event_text(event) for event in events]
    assert all(text.endswith(".") for text in texts)
    assert "80 steps over 1,000 items; 40 of 100 parameters" in texts[0]
    assert texts[1] == "Went on from step 7 on cpu."
    assert texts[3].endswith("accuracy 0.5000; the best so far.")


def test_a_sentence_gets_its_full_stop_once() -> None:
    assert [sentence(text) for text in ("", " a ", "a.", "a?")] == ["", "a.", "a.", "a?"]
