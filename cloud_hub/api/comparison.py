"""Two trained models beside each other: numbers, classes, orders, and the items they differ on.

1. A Candidate is compared by the Job in the cloud that made it.
2. Whether one is better is said only of the same items, by the paired test of the gate
   (cloud_hub/candidates/paired_test.py), here with a two-sided 95 % interval. Where that cannot be
   said, it is said why.
"""

from enum import StrEnum
from statistics import NormalDist
from typing import Self

from pydantic import Field

from cloud_hub.api.bodies import AnswerBody
from cloud_hub.api.cloud_job_bodies import CloudJobOut, IntervalOut, finite, interval_out
from cloud_hub.api.services import Services
from cloud_hub.candidates.candidate import Candidate
from cloud_hub.candidates.paired_test import bound_high, bound_low
from cloud_hub.explain.paired import Paired
from cloud_hub.explain.process_compare import compare_answers
from cloud_hub.explain.report import Report
from cloud_hub.training.cloud.cloud_job import ID_PREFIX, CloudJob
from cloud_hub.training.cloud.views import ClassPair
from shared.errors import RefusedError

CANDIDATE_START = "cand-"
CONFIDENCE = 0.95  # Two-sided
_Z = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)


class PairedAnswer(StrEnum):
    """Which of two is better."""

    A_BETTER = "a_better"
    B_BETTER = "b_better"
    CANNOT_TELL = "cannot_tell"


class PairedOut(AnswerBody):
    """The same items, decided by both."""

    name: str = Field(description="Of the true class; empty for all items")
    items_count: int
    right_a: int
    right_b: int
    b_gained: int = Field(description="B is right, A is wrong")
    b_lost: int = Field(description="A is right, B is wrong")
    difference: float = Field(description="Of the shares that are right, B minus A")
    low: float = Field(description="95 % interval of the difference (Tango 1998)")
    high: float
    answer: PairedAnswer

    @classmethod
    def of(cls, paired: Paired) -> Self:
        """Return a count of pairs with its test."""
        items, gained, lost = paired.items_count, paired.gained, paired.lost
        low = bound_low(gained, lost, items, z=_Z)
        high = bound_high(gained, lost, items, z=_Z)
        answer = PairedAnswer.CANNOT_TELL
        if low > 0.0:
            answer = PairedAnswer.B_BETTER
        elif high < 0.0:
            answer = PairedAnswer.A_BETTER
        return cls(
            name=paired.name,
            items_count=items,
            right_a=paired.right_before,
            right_b=paired.right_now,
            b_gained=gained,
            b_lost=lost,
            difference=(gained - lost) / items,
            low=low,
            high=high,
            answer=answer,
        )


class MetricPairOut(AnswerBody):
    """One number of both; null where a Job does not say it."""

    name: str
    a: float | None
    b: float | None
    difference: float | None


class ClassPairOut(AnswerBody):
    """One class in both reports."""

    name: str
    recall_a: IntervalOut | None
    recall_b: IntervalOut | None
    precision_a: IntervalOut | None
    precision_b: IntervalOut | None


class SettingPairOut(AnswerBody):
    """A setting in which the orders differ, as JSON."""

    path: str
    a: str
    b: str


class ComparisonOut(AnswerBody):
    """Two Jobs, or the Jobs of two Candidates."""

    a: CloudJobOut
    b: CloudJobOut
    sentence: str = Field(description="Which is better, as far as can be told")
    is_same_data: bool = Field(description="Judged on the same part of the same dataset version")
    accuracy_a: IntervalOut | None
    accuracy_b: IntervalOut | None
    paired: PairedOut | None = Field(description="Over the same items; null: see `why_not_paired`")
    paired_by_class: tuple[PairedOut, ...]
    disagreements: tuple[str, ...] = Field(description="SHA-256 of items only one has right")
    why_not_paired: str
    metrics: tuple[MetricPairOut, ...]
    classes: tuple[ClassPairOut, ...]
    settings: tuple[SettingPairOut, ...]


def find_job(services: Services, name: str) -> CloudJob:
    """Return the Job that a Job's or a Candidate's id names. Raises RefusedError `….unknown`."""
    if name.startswith(ID_PREFIX):
        return services.cloud_jobs.get(name)
    if not name.startswith(CANDIDATE_START):
        raise RefusedError(
            "compared.unknown",
            f"{name} is neither a Job in the cloud ({ID_PREFIX}…) nor a Candidate.",
            remedy="See the list: cloud-hub jobs list.",
        )
    candidate = services.releases.candidates.get(name)
    job = job_of_candidate(services, candidate)
    if job is None:
        raise RefusedError(
            "compared.unknown",
            f"{name} was not made by a Job in the cloud: there is no report on it.",
            remedy="Compare Candidates that were trained here.",
        )
    return job


def job_of_candidate(services: Services, candidate: Candidate) -> CloudJob | None:
    """Return the Job in the cloud that made a Candidate, or None."""
    for job in services.cloud_jobs.jobs_of(candidate.lineage_id):
        if job.candidate_id == candidate.candidate_id:
            return job
    return None


def compare(services: Services, a: str, b: str) -> ComparisonOut:
    """Return two Jobs or Candidates beside each other; takes up to a second."""
    first, second = find_job(services, a), find_job(services, b)
    found = services.cloud_jobs.compare(first.job_id, second.job_id)
    whole, by_class, disagreements, why = _pair(services, first, second)
    return ComparisonOut(
        a=CloudJobOut.of(first),
        b=CloudJobOut.of(second),
        sentence=paired_text(whole) if whole is not None else f"Cannot tell: {why}",
        is_same_data=found.is_same_data,
        accuracy_a=interval_out(found.accuracy_a),
        accuracy_b=interval_out(found.accuracy_b),
        paired=whole,
        paired_by_class=by_class,
        disagreements=disagreements,
        why_not_paired=why,
        metrics=tuple(
            MetricPairOut(
                name=pair.name,
                a=finite(pair.a),
                b=finite(pair.b),
                difference=finite(pair.difference),
            )
            for pair in found.metrics
        ),
        classes=tuple(_class_out(pair) for pair in found.classes),
        settings=tuple(SettingPairOut.model_validate(pair) for pair in found.settings),
    )


def paired_text(paired: PairedOut) -> str:
    """Return what a paired test says."""
    counted = (
        f"B is right on {paired.b_gained:,} items that A has wrong, and wrong on "
        f"{paired.b_lost:,} that A has right, of {paired.items_count:,}."
    )
    span = (
        f"{paired.difference * 100:+.2f} points, 95 % interval {paired.low * 100:+.2f} to "
        f"{paired.high * 100:+.2f}"
    )
    match paired.answer:
        case PairedAnswer.A_BETTER:
            return f"A is better: {span}. {counted}"
        case PairedAnswer.B_BETTER:
            return f"B is better: {span}. {counted}"
        case PairedAnswer.CANNOT_TELL:
            return f"Cannot tell which is better: {span}. {counted}"


_Paired = tuple[PairedOut | None, tuple[PairedOut, ...], tuple[str, ...], str]


def _pair(services: Services, a: CloudJob, b: CloudJob) -> _Paired:
    """Return the paired counts, or why there are none."""
    reports: list[Report] = []
    answers: list[bytes] = []
    for job in (a, b):
        report = services.cloud_jobs.report(job.job_id)
        said = services.cloud_jobs.answers(job.job_id)
        if report is None or said is None:
            return None, (), (), f"there is no report on what {job.job_id} made."
        reports.append(report)
        answers.append(said)
    try:
        found = compare_answers((reports[0], reports[1]), (answers[0], answers[1]))
    except RefusedError as error:
        return None, (), (), f"{error.message} {error.remedy}"
    if not found.whole.items_count:
        return None, (), (), "the part that they were judged on is empty."
    by_class = tuple(PairedOut.of(row) for row in found.by_class)
    return PairedOut.of(found.whole), by_class, found.disagreements, ""


def _class_out(pair: ClassPair) -> ClassPairOut:
    return ClassPairOut(
        name=pair.name,
        recall_a=interval_out(pair.recall_a),
        recall_b=interval_out(pair.recall_b),
        precision_a=interval_out(pair.precision_a),
        precision_b=interval_out(pair.precision_b),
    )
