"""Regression, forecast, forecast error and segmentation: from outputs to what is told of them."""

import numpy as np
import pytest

from edge_agent.decisions.conclude import conclude
from shared.errors import ContractError, RefusedError
from shared.model.postprocess import anomaly_score, check_outputs, estimated_values, segmented
from shared.model.preprocess import compared_with, place, to_tensor
from shared.model.spec import (
    Decoder,
    ImageInput,
    Layout,
    ModelSpec,
    OutputSpec,
    Resize,
    Task,
    WindowInput,
    parse_spec,
)
from shared.pipeline.decisions import DecisionSettings
from shared.wire.records import Estimated, Segmented

WINDOW = WindowInput(samples=6, channels=2, mean=(1.0, 2.0), scale=(2.0, 4.0))
CLASSES = ("road", "car", "tree")


def forecast_spec(layout: Layout = Layout.CHANNELS_FIRST) -> ModelSpec:
    return ModelSpec(
        model="m",
        task=Task.ANOMALY,
        input=WindowInput(samples=6, channels=2, layout=layout, mean=(1.0, 2.0), scale=(2.0, 4.0)),
        output=OutputSpec(decoder=Decoder.FORECAST, horizon=2, threshold=0.5),
    )


def mask_spec(classes: tuple[str, ...] = CLASSES) -> ModelSpec:
    return ModelSpec(
        model="m",
        task=Task.SEGMENTATION,
        input=ImageInput(width=8, height=8, resize=Resize.LETTERBOX),
        output=OutputSpec(decoder=Decoder.MASK, classes=classes),
    )


def values_spec(task: Task, names: tuple[str, ...] = ()) -> ModelSpec:
    output = OutputSpec(decoder=Decoder.VALUES, classes=names, unit="°C")
    return ModelSpec(model="m", task=task, input=WINDOW, output=output)


@pytest.mark.parametrize("layout", Layout)
def test_a_forecast_is_judged_by_the_rows_that_the_model_did_not_see(layout: Layout) -> None:
    spec = forecast_spec(layout)
    window = np.random.default_rng(5).normal(0, 3, (6, 2)).astype(np.float32)
    batch = to_tensor(window, spec)
    scaled = (window - [1.0, 2.0]) / [2.0, 4.0]
    seen = batch[0] if layout is Layout.CHANNELS_LAST else batch[0].T
    np.testing.assert_allclose(seen, scaled[:4], rtol=1e-5)
    wanted = compared_with(window, batch, spec)
    assert anomaly_score((wanted + 0.5,), wanted, spec) == pytest.approx(0.25, rel=1e-5)
    rows = wanted[0] if layout is Layout.CHANNELS_LAST else wanted[0].T
    np.testing.assert_allclose(rows, scaled[4:], rtol=1e-5)
    flat = wanted.reshape(1, -1)
    assert anomaly_score((flat,), wanted, spec) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("horizon", "message"), [(0, "output.horizon"), (6, "output.horizon must be at least 1")]
)
def test_a_horizon_leaves_something_to_see_and_something_to_foretell(
    horizon: int, message: str
) -> None:
    output = OutputSpec(decoder=Decoder.FORECAST, horizon=horizon)
    with pytest.raises(ValueError, match=message):
        ModelSpec(model="m", task=Task.ANOMALY, input=WINDOW, output=output)


def test_a_forecast_of_pictures_is_refused_by_name() -> None:
    text = """
    model = "m"
    task = "anomaly"
    input = { kind = "image", width = 8, height = 8 }
    output = { decoder = "forecast", horizon = 2 }
    """
    with pytest.raises(ContractError, match=r"input\.kind must be window"):
        parse_spec(text.encode())


@pytest.mark.parametrize("task", [Task.REGRESSION, Task.FORECAST])
def test_numbers_are_told_in_the_order_of_the_model(task: Task) -> None:
    spec = values_spec(task, ("inside", "outside"))
    output = np.array([[21.5, -3.0]], np.float32)
    conclusion = conclude(
        (output,),
        spec,
        DecisionSettings(),
        batch=np.zeros(spec.input_shape, np.float32),
        placement=None,
        previous=None,
    )
    assert conclusion.outcome == Estimated((21.5, -3.0))


def test_numbers_without_names_are_as_many_as_the_model_gives() -> None:
    spec = values_spec(Task.REGRESSION)
    assert estimated_values((np.ones((1, 5), np.float32),), spec) == (1.0,) * 5
    with pytest.raises(RefusedError, match="n at most 64"):
        check_outputs((np.ones((1, 65), np.float32),), spec)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e19])
def test_a_number_that_cannot_be_told_is_a_failed_inference(value: float) -> None:
    with pytest.raises(RefusedError):
        estimated_values((np.array([[value]], np.float32),), values_spec(Task.FORECAST))


@pytest.mark.parametrize("is_index", [False, True])
def test_padding_is_no_part_of_what_is_seen(is_index: bool) -> None:
    spec = mask_spec()
    assert isinstance(spec.input, ImageInput)
    # A frame twice as wide as high fills rows 2 to 5 of 8; at a quarter of the size, 1 and 2 of 4.
    placement = place(16, 8, spec.input)
    wanted = np.array([[2, 2, 2, 2], [0, 0, 0, 1], [1, 1, 1, 1], [2, 2, 2, 2]])
    output = wanted[None, None].astype(np.int64)
    if not is_index:
        output = (np.eye(3)[wanted].transpose(2, 0, 1)[None] * 4 - 7).astype(np.float32)
    found = segmented((output,), spec, placement=placement)
    assert found.shares.tolist() == [3 / 8, 5 / 8, 0.0]
    conclusion = conclude(
        (output,),
        spec,
        DecisionSettings(),
        batch=np.zeros(spec.input_shape, np.float32),
        placement=placement,
        previous=None,
    )
    assert conclusion.outcome == Segmented({"road": 3 / 8, "car": 5 / 8})


def test_one_plane_of_floats_tells_two_classes_and_no_more() -> None:
    output = np.array([[[[-1.0, 2.0], [-3.0, -0.5]]]], np.float32)
    spec = mask_spec(("background", "person"))
    assert isinstance(spec.input, ImageInput)
    found = segmented((output,), spec, placement=place(8, 8, spec.input))
    assert found.shares.tolist() == [0.75, 0.25]
    with pytest.raises(RefusedError, match="whole numbers"):
        check_outputs((output,), mask_spec())


def test_a_class_that_the_spec_does_not_name_is_a_failed_inference() -> None:
    spec = mask_spec()
    assert isinstance(spec.input, ImageInput)
    output = np.full((1, 1, 4, 4), 3, np.int64)
    with pytest.raises(RefusedError, match="names a class"):
        segmented((output,), spec, placement=place(8, 8, spec.input))


def test_two_classes_of_one_name_are_refused_in_a_mask() -> None:
    with pytest.raises(ValueError, match=r"output\.classes"):
        mask_spec(("car", "car"))
