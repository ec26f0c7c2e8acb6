"""Regression and segmentation as an API: the real serving process, models of known answers."""

import base64
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.api_client import ApiHub

pytestmark = pytest.mark.slow
SIDE = 8
REGRESSION = """
model = "wear"
task = "regression"
[input]
kind = "window"
samples = 4
channels = 2
[output]
decoder = "values"
classes = ["depth", "width"]
unit = "mm"
"""
SEGMENTATION = """
model = "ground"
task = "segmentation"
[input]
kind = "image"
width = 8
height = 8
resize = "letterbox"
scale = [255.0]
[output]
decoder = "mask"
classes = ["road", "grass", "water"]
"""


def model(
    nodes: list[onnx.NodeProto], shape: list[int], outcome: list[int], **constants: np.ndarray
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, outcome)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def means() -> bytes:
    """Return a model that tells the mean of each channel, (1, 2, 4) to (1, 2)."""
    node = helper.make_node("ReduceMean", ["input"], ["output"], axes=[2], keepdims=0)
    return model([node], [1, 2, 4], [1, 2])


def strongest_colour() -> bytes:
    """Return a model whose scores of the classes are blue, green and red, (1, 3, 8, 8)."""
    node = helper.make_node("Identity", ["input"], ["output"])
    return model([node], [1, 3, SIDE, SIDE], [1, 3, SIDE, SIDE])


def release(hub: ApiHub, data: bytes, spec: str) -> None:
    hub.services.releases.add(
        model_bytes=data,
        spec_bytes=spec.encode(),
        golden_bytes=None,
        metrics={},
        notes="",
        lineage_id=None,
    )


def ask(hub: ApiHub, name: str, *items: dict[str, Any]) -> Any:
    answer = hub.client().post(
        f"/api/v1/models/{name}/infer", json={"items": list(items)}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


def picture(pixels: np.ndarray) -> dict[str, Any]:
    return {"image": base64.b64encode(bytes(cv2.imencode(".png", pixels)[1])).decode()}


def test_a_regression_is_answered_with_its_names_and_unit(empty_hub: ApiHub) -> None:
    release(empty_hub, means(), REGRESSION)
    windows = [[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [6.0, 40.0]], [[-1.0, 0.5]] * 4]
    answers = ask(empty_hub, "wear", *({"window": window} for window in windows))
    assert [answer["values"] for answer in answers] == [[3.0, 25.0], [-1.0, 0.5]]
    for answer in answers:
        assert (answer["task"], answer["names"], answer["unit"]) == (
            "values", ["depth", "width"], "mm",
        )  # fmt: skip
    described = empty_hub.client().get("/api/v1/models/wear/infer").json()
    assert (described["task"], described["takes"]) == ("regression", "window")
    assert ask(empty_hub, "wear", *described["example"]["items"])


def test_a_number_that_is_not_finite_is_refused_and_the_next_one_answered(
    empty_hub: ApiHub,
) -> None:
    node = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("Exp", ["mean"], ["output"]),
    ]
    release(empty_hub, model(node, [1, 2, 4], [1, 2]), REGRESSION)
    address = "/api/v1/models/wear/infer"
    bad = empty_hub.client().post(
        address, json={"items": [{"window": [[1000.0, 4.0]] * 4}]}, timeout=30
    )
    assert (bad.status_code, bad.json()["code"]) == (409, "inference.output"), bad.text
    assert "not a finite number" in bad.json()["message"]
    (good,) = ask(empty_hub, "wear", {"window": [[0.0, 0.0]] * 4})
    assert good["values"] == [1.0, 1.0]


def test_a_segmentation_tells_shares_of_the_frame_without_its_padding(empty_hub: ApiHub) -> None:
    release(empty_hub, strongest_colour(), SEGMENTATION)
    wide = np.zeros((16, 32, 3), np.uint8)  # Letterboxed: half of the model's input is padding
    wide[:, :24, 0] = 255
    wide[:, 24:, 2] = 255
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    square[..., 1] = 255
    answers = ask(empty_hub, "ground", picture(wide), picture(square))
    assert [answer["task"] for answer in answers] == ["segmentation"] * 2
    assert answers[0]["shares"] == pytest.approx({"road": 0.75, "water": 0.25}, abs=1e-6)
    assert answers[1]["shares"] == pytest.approx({"grass": 1.0})


def test_the_openapi_of_these_models_says_what_they_answer(empty_hub: ApiHub) -> None:
    release(empty_hub, strongest_colour(), SEGMENTATION)
    release(empty_hub, means(), REGRESSION)
    for name, field in (("ground", "shares"), ("wear", "values")):
        document = empty_hub.client().get(f"/api/v1/models/{name}/openapi.json").json()
        post = document["paths"][f"/api/v1/models/{name}/infer"]["post"]
        content = post["responses"]["200"]["content"]["application/json"]
        answers = content["schema"]["properties"]["answers"]["items"]
        assert field in answers["properties"], answers
