"""Settings that the model makes nothing of are told, because nothing would come of them."""

import msgspec
import pytest

from edge_agent.decisions.unused_settings import TASK_OF_KEY, unused_settings
from shared.model.spec import ModelSpec, parse_spec
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.pipeline import parse_pipeline

DETECTOR = parse_spec(b"""
model = "people"
task = "detection"
input = {kind = "image", width = 320, height = 320, colour = "bgr"}
output = {decoder = "yolov8", classes = ["person", "car"]}
""")
ANOMALY = parse_spec(b"""
model = "bearing"
task = "anomaly"
input = {kind = "window", samples = 16, channels = 1}
output = {decoder = "score", threshold = 1.0}
""")
CLASSES = parse_spec(b"""
model = "digits"
task = "classification"
input = {kind = "image", width = 28, height = 28, colour = "gray"}
output = {decoder = "logits", classes = ["a", "b"]}
""")


def told(spec: ModelSpec, decisions: dict[str, object], *sinks: dict[str, object]) -> str:
    settings = {
        "name": "gate",
        "model": "people",
        "source": {"kind": "stream", "url": "rtsp://10.0.0.7/1"},
        "decisions": decisions,
        "sinks": list(sinks),
    }
    return unused_settings(parse_pipeline(settings), spec)


def test_the_defaults_are_never_told() -> None:
    assert not any(told(spec, {}) for spec in (DETECTOR, ANOMALY, CLASSES))


@pytest.mark.parametrize(
    "decisions",
    [
        {"tracking": {"labels": ["person", "lorry"]}},
        {"tracking": {}, "lines": [{"name": "l", "points": [[0, 0], [1, 1]], "labels": ["lorry"]}]},
        {
            "tracking": {},
            "zones": [{"name": "z", "points": [[0, 0], [1, 0], [1, 1]], "labels": ["lorry"]}],
        },
    ],
)
def test_a_label_that_the_model_does_not_know_is_told(decisions: dict[str, object]) -> None:
    assert told(DETECTOR, decisions).startswith("The model has no label lorry:")


def test_labels_of_sinks_are_those_of_the_task() -> None:
    pictures = {"kind": "snapshots", "path": "/tmp/p", "labels": ["anomalous"]}
    assert "no label anomalous" in told(DETECTOR, {}, pictures)
    assert told(ANOMALY, {}, pictures) == ""


@pytest.mark.parametrize(
    ("spec", "decisions", "key"),
    [
        (DETECTOR, {"threshold": 0.5}, "threshold"),
        (DETECTOR, {"novelty": {}}, "novelty"),
        (CLASSES, {"confidence_min": 0.5}, "confidence_min"),
        (CLASSES, {"tracking": {}}, "tracking"),
        (ANOMALY, {"hysteresis_margin": 0.1}, "hysteresis_margin"),
    ],
)
def test_a_key_of_another_task_is_told(
    spec: ModelSpec, decisions: dict[str, object], key: str
) -> None:
    assert f"{key} plays no part in {spec.task}" in told(spec, decisions)


def test_every_key_is_one_of_decisions() -> None:
    names = {field.name for field in msgspec.structs.fields(DecisionSettings)}
    assert set(TASK_OF_KEY) <= names
