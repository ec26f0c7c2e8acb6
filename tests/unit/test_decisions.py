"""Decisions of each task, their confidences, and agreement between two."""

import numpy as np
import pytest

from edge_agent.decisions import anomaly, detect
from edge_agent.decisions.agreement import agrees
from edge_agent.decisions.classify import classify
from edge_agent.decisions.conclude import conclude
from edge_agent.inference.pipeline_state import pipeline_state
from edge_agent.sources.capture import CaptureState, CaptureStatus
from shared.errors import ContractError, RefusedError
from shared.model.postprocess import Boxes
from shared.model.preprocess import place
from shared.model.spec import Decoder, ImageInput, ModelSpec, OutputSpec, Task, WindowInput
from shared.pipeline.decisions import DecisionSettings
from shared.settings import parse_toml
from shared.wire.records import Box, Classified, Detected, Outcome, Scored

CAT, DOG = Classified("cat", 0.9), Classified("dog", 0.5)
CAR = Box("car", 0.9, 0.1, 0.1, 0.5, 0.5)
CAR_NEAR = Box("car", 0.4, 0.12, 0.1, 0.52, 0.5)
CAR_FAR = Box("car", 0.9, 0.6, 0.6, 0.9, 0.9)
BUS = Box("bus", 0.9, 0.1, 0.1, 0.5, 0.5)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_best_class_wins_without_a_margin() -> None:
    found = classify(scores(0.4, 0.6), ("cat", "dog"), previous="cat")
    assert found == Classified("dog", pytest.approx(0.6))


@pytest.mark.parametrize(
    ("previous", "margin", "label"),
    [("cat", 0.1, "dog"), ("cat", 0.3, "cat"), (None, 0.3, "dog"), ("bird", 0.3, "dog")],
)
def test_hysteresis(previous: str | None, margin: float, label: str) -> None:
    found = classify(scores(0.4, 0.6), ("cat", "dog"), previous=previous, margin=margin)
    assert found.label == label
    assert found.confidence == pytest.approx(0.6 if label == "dog" else 0.4)


def test_boxes_get_the_names_of_their_classes() -> None:
    boxes = Boxes(
        np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), scores(0.5), np.array([1], np.int64)
    )
    (box,) = detect.detect(boxes, ("cat", "dog")).boxes
    assert box.label == "dog"
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((0.1, 0.2, 0.3, 0.4))


def test_confidence_of_a_frame_is_the_mean_of_its_boxes() -> None:
    assert detect.confidence_of(Detected((CAR, CAR_NEAR))) == pytest.approx(0.65)
    assert detect.confidence_of(Detected(())) == 0.0


@pytest.mark.parametrize(
    ("score", "threshold", "is_anomalous", "confidence"),
    [
        (0.0, 2.0, False, 1.0),
        (1.0, 2.0, False, 0.5),
        (2.0, 2.0, False, 0.0),
        (3.0, 2.0, True, 0.5),
        (9.0, 2.0, True, 1.0),
        (0.25, 0.0, True, 0.25),
        (-1.0, -2.0, True, 0.5),
    ],
)
def test_anomaly(score: float, threshold: float, is_anomalous: bool, confidence: float) -> None:
    scored = anomaly.judge_score(score, threshold)
    assert scored.is_anomalous is is_anomalous
    assert anomaly.confidence_of(scored) == pytest.approx(confidence)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (CAT, Classified("cat", 0.2), True),
        (CAT, DOG, False),
        (Scored(1.0, 2.0, False), Scored(1.9, 1.95, False), True),
        (Scored(1.0, 2.0, False), Scored(3.0, 2.0, True), False),
        (Detected(()), Detected(()), True),
        (Detected((CAR,)), Detected(()), False),
        (Detected((CAR,)), Detected((CAR_NEAR,)), True),
        (Detected((CAR,)), Detected((CAR_FAR,)), False),
        (Detected((CAR,)), Detected((BUS,)), False),
        (Detected((CAR, CAR_FAR)), Detected((CAR_NEAR,)), True),  # F1 2/3
        (Detected((CAR, CAR_FAR, BUS)), Detected((CAR_NEAR,)), True),  # F1 1/2
        (Detected((CAR, CAR_FAR, BUS, CAR_FAR)), Detected((CAR,)), False),  # F1 2/5
        (CAT, Detected(()), False),
    ],
)
def test_agreement_and_it_is_mutual(one: Outcome, other: Outcome, expected: bool) -> None:
    assert agrees(one, other) is expected
    assert agrees(other, one) is expected


def anomaly_spec(threshold: float) -> ModelSpec:
    return ModelSpec(
        model="m",
        task=Task.ANOMALY,
        input=WindowInput(samples=4),
        output=OutputSpec(decoder=Decoder.SCORE, threshold=threshold),
    )


def test_the_device_may_set_its_own_threshold() -> None:
    batch, outputs = np.zeros((1, 1, 4), np.float32), (np.array([5.0], np.float32),)
    for settings, expected in ((None, False), (4.0, True)):
        concluded = conclude(
            outputs,
            anomaly_spec(6.0),
            DecisionSettings(threshold=settings),
            batch=batch,
            placement=None,
            previous=None,
        )
        assert concluded.outcome.is_anomalous is expected  # type: ignore[union-attr]


def test_a_score_out_of_all_bounds_is_a_failed_inference() -> None:
    with pytest.raises(RefusedError):
        conclude(
            (np.array([1e30], np.float32),),
            anomaly_spec(6.0),
            DecisionSettings(),
            batch=np.zeros((1, 1, 4), np.float32),
            placement=None,
            previous=None,
        )


def test_the_device_may_set_its_own_confidence_for_boxes() -> None:
    image = ImageInput(width=10, height=10)
    spec = ModelSpec(
        model="m",
        task=Task.DETECTION,
        input=image,
        output=OutputSpec(decoder=Decoder.BOXES, classes=("car",)),
    )
    rows = np.array([[[0, 0, 5, 5, 0.6, 0]]], np.float32)
    for minimum, count in ((None, 1), (0.7, 0)):
        concluded = conclude(
            (rows,),
            spec,
            DecisionSettings(confidence_min=minimum),
            batch=np.zeros(spec.input_shape, np.float32),
            placement=place(20, 20, image),
            previous=None,
        )
        assert len(concluded.outcome.boxes) == count  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("capture", "is_waiting", "is_over", "expected"),
    [
        (CaptureState.RUNNING, False, False, "running"),
        (CaptureState.RUNNING, True, False, "waiting for a model"),
        (CaptureState.RECONNECTING, False, False, "reconnecting"),
        (CaptureState.FAILED, True, False, "failed"),
        (CaptureState.ENDED, False, False, "running"),
        (CaptureState.ENDED, False, True, "ended"),
        (CaptureState.ENDED, True, False, "waiting for a model"),
    ],
)
def test_how_a_pipeline_stands(
    capture: CaptureState, is_waiting: bool, is_over: bool, expected: str
) -> None:
    state, detail = pipeline_state(
        CaptureStatus(capture, "why"), is_waiting_for_model=is_waiting, is_over=is_over
    )
    assert state == expected
    assert detail in ("why", "why Then start the agent again.", "")


@pytest.mark.parametrize(
    ("capture", "is_waiting", "expected"),
    [
        (CaptureState.RUNNING, False, ("failing", "no")),
        (CaptureState.RUNNING, True, ("waiting for a model", "why")),
        (CaptureState.RECONNECTING, False, ("reconnecting", "why")),
        (CaptureState.ENDED, False, ("failing", "no")),
    ],
)
def test_inference_that_fails_is_said_where_items_come(
    capture: CaptureState, is_waiting: bool, expected: tuple[str, str]
) -> None:
    status = CaptureStatus(capture, "why")
    assert expected == pipeline_state(
        status, is_waiting_for_model=is_waiting, is_over=True, failing="no"
    )


@pytest.mark.parametrize(
    ("capture", "failing", "expected"),
    [
        (CaptureState.RUNNING, "", "frozen"),
        (CaptureState.RUNNING, "no", "failing"),
        (CaptureState.STALLED, "", "stalled"),
    ],
)
def test_a_picture_that_stands_still_is_said_where_frames_come(
    capture: CaptureState, failing: str, expected: str
) -> None:
    state, _ = pipeline_state(
        CaptureStatus(capture, "why"),
        is_waiting_for_model=False,
        is_over=False,
        failing=failing,
        is_frozen=True,
    )
    assert state == expected


def test_a_trial_that_could_see_no_evidence_is_refused_at_start() -> None:
    with pytest.raises(ContractError, match=r"0\.01"):
        parse_toml(b"companion_share = 0.0", DecisionSettings, name="agent.toml")
