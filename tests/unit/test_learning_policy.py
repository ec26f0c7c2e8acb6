"""The owner's policy and the arithmetic of the privacy budget."""

import msgspec
import pytest

from edge_agent.config import AgentConfig
from edge_agent.pipeline_book import open_book
from edge_agent.training.budget import affords, cost_of_rho, epsilon_after, rho_of
from edge_agent.training.policy import Wish, decide, may_tell
from edge_agent.training.settings import LearningSettings, PrivacySettings, SampleSettings
from edge_agent.updates.reporting import ReportGate
from shared.learning.rdp import epsilon_of, gaussian_cost, no_cost
from shared.learning.task import Measurement
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sources import CsvSettings, WindowSettings
from shared.wire.report import LearningReport, LearningState, Report

SAMPLES = (SampleSettings(model="digits", path="/samples"),)
WISH = Wish("job-a", "digits", None)


def settings(**changes: object) -> LearningSettings:
    return LearningSettings(samples=SAMPLES, **changes)  # type: ignore[arg-type]


def code_of(settings: LearningSettings | None, wish: Wish, rho: float = 0.0) -> str | None:
    refusal = decide(settings, wish, cost_of_rho(rho))
    return refusal.code if refusal else None


def test_without_a_policy_nothing_is_allowed() -> None:
    refusal = decide(None, WISH, no_cost())
    assert refusal is not None
    assert refusal.code == "policy.absent"
    assert "[learning]" in refusal.text


@pytest.mark.parametrize(
    ("changes", "wish", "code"),
    [
        ({}, WISH, None),
        ({}, Wish("job-a", "other", None), "policy.model"),
        ({"jobs_allowed": ("job-*",)}, WISH, None),
        ({"jobs_allowed": ("plant-*",)}, WISH, "policy.job"),
        ({"jobs_allowed": ()}, WISH, "policy.job"),
        ({"jobs_forbidden": ("*-a",)}, WISH, "policy.job"),
        ({"privacy": PrivacySettings(is_noise_required=True)}, WISH, "policy.noise"),
        ({"privacy": PrivacySettings(epsilon_max=8.0)}, WISH, "policy.noise"),
        ({"privacy": PrivacySettings(epsilon_max=8.0)}, Wish("j", "digits", 2.0), None),
        ({"privacy": PrivacySettings(epsilon_max=8.0)}, Wish("j", "digits", 0.5), "budget.spent"),
        ({"privacy": PrivacySettings(is_noise_required=True)}, Wish("j", "digits", 1.0), None),
        (
            {"privacy": PrivacySettings(is_noise_required=True)},
            Wish("j", "digits", None, trains=False),
            None,
        ),
    ],
)
def test_each_rule_says_no_with_its_code(
    changes: dict[str, object], wish: Wish, code: str | None
) -> None:
    assert code_of(settings(**changes), wish) == code


def test_a_round_that_was_paid_for_is_not_refused_for_the_budget() -> None:
    owner, wish = settings(privacy=PrivacySettings(epsilon_max=1.0)), Wish("j", "digits", 1.0)
    assert decide(owner, wish, no_cost()) is not None
    assert decide(owner, wish, no_cost(), is_charged=True) is None


def test_a_forbidden_measurement_is_not_told() -> None:
    owner = settings(measurements_forbidden=(Measurement.LOSS,))
    assert not may_tell(owner, Measurement.LOSS)
    assert may_tell(owner, Measurement.CPU)


@pytest.mark.parametrize("noise", [0.7, 1.0, 3.3, 20.0])
def test_rho_is_the_exact_cost_at_every_order(noise: float) -> None:
    assert cost_of_rho(rho_of(noise)) == pytest.approx(gaussian_cost(noise))
    assert cost_of_rho(7 * rho_of(noise)) == pytest.approx(gaussian_cost(noise, releases=7))


@pytest.mark.parametrize("epsilon_max", [3.0, 8.0])
def test_a_budget_affords_every_round_within_it_and_none_beyond(epsilon_max: float) -> None:
    privacy = PrivacySettings(epsilon_max=epsilon_max)
    rounds = 0
    while affords(privacy, cost_of_rho(rounds * rho_of(2.0)), 2.0):
        rounds += 1
    assert rounds > 0
    spent = gaussian_cost(2.0, releases=rounds)
    one_more = gaussian_cost(2.0, releases=rounds + 1)
    assert epsilon_of(spent, privacy.delta) <= epsilon_max < epsilon_of(one_more, privacy.delta)
    assert epsilon_after(spent, 2.0, delta=privacy.delta) > epsilon_max
    assert affords(PrivacySettings(), one_more, 2.0)


def test_only_news_of_learning_is_told_at_once() -> None:
    gate = ReportGate(progress_s=2.0)
    job = LearningReport(job="job-a", model="digits", state=LearningState.READY)

    def admits(job: LearningReport, now_s: float) -> bool:
        report = Report(target_revision=1, at_ms=0, models=(), learning=(job,))
        return gate.admit(report, now_s=now_s)

    assert admits(job, 0.0)
    counted = msgspec.structs.replace(job, rounds_count=3, text="It is at 71 °C.")
    assert not admits(counted, 0.5)
    assert admits(msgspec.structs.replace(counted, state=LearningState.WAITING), 0.6)
    assert admits(counted, 2.7)


def test_the_owners_policy_is_not_part_of_what_a_receipt_signs() -> None:
    source = CsvSettings(
        path="/values.csv", columns=("value",), window=WindowSettings(samples=8, step=8)
    )
    pipeline = PipelineSettings(name="gate", model="digits", source=source)
    digests = set()
    for config in (
        AgentConfig(pipelines=(pipeline,)),
        AgentConfig(pipelines=(pipeline,), learning=settings()),
    ):
        book = open_book(config.pipelines, config.remote, None)
        digests.add(book.digest_for("digits"))
    assert len(digests) == 1
