"""Concluder: what is remembered from item to item, and through a new release."""

import numpy as np
import pytest

from edge_agent.decisions.adaptive import AdaptiveThreshold, tail_threshold
from edge_agent.decisions.concluder import Concluder
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.pipeline.decisions import AdaptiveThresholdSettings, DecisionSettings
from shared.wire.records import Classified, Scored

SCORES = ModelSpec(
    model="pump",
    task=Task.ANOMALY,
    input=WindowInput(samples=4),
    output=OutputSpec(decoder=Decoder.SCORE, threshold=5.0),
)
PETS = ModelSpec(
    model="pets",
    task=Task.CLASSIFICATION,
    input=WindowInput(samples=4),
    output=OutputSpec(decoder=Decoder.PROBABILITIES, classes=("cat", "dog")),
)
LEARNS = AdaptiveThresholdSettings(learn_scores=100, history_scores=1000, sensors_max=2)
BATCH = np.zeros((1, 1, 4), np.float32)


def score(concluder: Concluder, value: float, *, sensor: str = "") -> Scored:
    outputs = (np.array([value], np.float32),)
    outcome = concluder.conclude(
        outputs, batch=BATCH, placement=None, at_s=0.0, sensor=sensor
    ).outcome
    assert isinstance(outcome, Scored)
    return outcome


def pet(concluder: Concluder, dog: float, at_s: float) -> str:
    outputs = (np.array([[1.0 - dog, dog]], np.float32),)
    outcome = concluder.conclude(outputs, batch=BATCH, placement=None, at_s=at_s).outcome
    assert isinstance(outcome, Classified)
    return outcome.label


def test_an_adaptive_threshold_is_silent_while_cold_and_then_finds_a_spike() -> None:
    concluder = Concluder(SCORES, DecisionSettings(adaptive=LEARNS))
    rng = np.random.default_rng(0)
    assert not any(score(concluder, 1e6 if i == 50 else 1.0).is_anomalous for i in range(60))
    concluder = Concluder(SCORES, DecisionSettings(adaptive=LEARNS))
    for value in rng.exponential(1.0, 500):
        score(concluder, float(value))
    spike = score(concluder, 50.0)
    assert spike.is_anomalous
    assert 5.0 < spike.threshold < 50.0
    assert not score(concluder, 2.0).is_anomalous


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_risk_is_kept_on_scores_of_any_scale(scale: float) -> None:
    rng = np.random.default_rng(7)
    threshold = AdaptiveThreshold(AdaptiveThresholdSettings(risk=1e-3))
    values = rng.exponential(scale, 20_000)
    above = sum(value > threshold.judge(float(value)) for value in values)
    assert 5 <= above <= 60  # 20 expected


def test_a_threshold_never_looks_ahead() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 800) ** 2
    one, other = AdaptiveThreshold(LEARNS), AdaptiveThreshold(LEARNS)
    before = [one.judge(float(value)) for value in values[:400]]
    changed = np.concatenate([values[:399], [1e9], values[400:]])
    assert before == [other.judge(float(value)) for value in changed[:400]]


def test_a_new_normal_is_learned() -> None:
    threshold = AdaptiveThreshold(LEARNS)
    rng = np.random.default_rng(4)
    for value in rng.normal(10.0, 1.0, 300):
        threshold.judge(float(value))
    judged = [value > threshold.judge(float(value)) for value in rng.normal(100.0, 1.0, 600)]
    assert all(judged[:99])
    assert not any(judged[-200:])


def test_scores_that_never_change_have_a_threshold() -> None:
    assert tail_threshold(np.ones(500), risk=1e-4, tail_share=0.02) == 1.0


def test_each_sensor_has_its_own_threshold_and_the_longest_silent_is_forgotten() -> None:
    concluder = Concluder(SCORES, DecisionSettings(adaptive=LEARNS))
    for index in range(200):
        score(concluder, 1.0 + index % 7, sensor="small")
        score(concluder, 1000.0 + index % 7, sensor="large")
    assert score(concluder, 900.0, sensor="small").is_anomalous
    assert not score(concluder, 900.0, sensor="large").is_anomalous
    score(concluder, 1.0, sensor="third")
    assert not score(concluder, 900.0, sensor="small").is_anomalous  # Learns anew


def test_a_threshold_goes_on_in_a_release_of_the_same_spec() -> None:
    first = Concluder(SCORES, DecisionSettings(adaptive=LEARNS))
    for index in range(200):
        score(first, 1.0 + index % 7)
    second = Concluder(SCORES, DecisionSettings(adaptive=LEARNS))
    second.carry_over(first)
    assert score(second, 900.0).is_anomalous


def test_a_class_is_told_only_once_it_has_settled() -> None:
    concluder = Concluder(PETS, DecisionSettings(settle_s=1.0))
    steps = [(0.0, 0.1), (0.5, 0.9), (1.0, 0.1), (1.5, 0.9), (2.0, 0.9), (2.5, 0.9), (3.0, 0.9)]
    told = [pet(concluder, dog, at_s) for at_s, dog in steps]
    assert told == ["cat", "cat", "cat", "cat", "cat", "dog", "dog"]


def test_a_class_goes_on_settling_in_a_new_release() -> None:
    first, second = (Concluder(PETS, DecisionSettings(settle_s=1.0)) for _ in range(2))
    assert [pet(first, dog, at_s) for at_s, dog in ((0.0, 0.1), (0.5, 0.9))] == ["cat", "cat"]
    second.carry_over(first)
    assert [pet(second, 0.9, at_s) for at_s in (1.0, 1.5)] == ["cat", "dog"]
    assert [pet(first, 0.9, at_s) for at_s in (1.0, 1.5)] == ["cat", "dog"]  # Each on its own


def test_sensors_that_forget_each_other_are_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    concluder = Concluder(SCORES, DecisionSettings(adaptive=LEARNS))
    for sensor in "abc" * 3:  # LEARNS remembers two
        score(concluder, 1.0, sensor=sensor)
    assert [record.getMessage() for record in caplog.records] == ["decisions.sensors_full"]


def test_hysteresis_goes_on_in_a_new_release_and_what_is_held_is_the_last() -> None:
    settings = DecisionSettings(hysteresis_margin=0.3)
    first, second = Concluder(PETS, settings), Concluder(PETS, settings)
    assert first.hold(at_s=0.0) is None
    assert pet(first, 0.1, 0.0) == "cat"
    second.carry_over(first)
    assert pet(second, 0.6, 1.0) == "cat"
    held = second.hold(at_s=2.0)
    assert held is not None
    assert isinstance(held.outcome, Classified)
    assert held.outcome.label == "cat"
