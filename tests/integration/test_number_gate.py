"""Models of numbers and of masks through the real gate, beside the release before them."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_hub.candidates.candidate import Answer, GateRefusedError, Measure, Verdict
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database, sqlite_url
from tests.support.release_hub import open_hub

pytestmark = pytest.mark.slow  # Examines in processes of their own.

SAMPLES, AHEAD, SIDE, COUNT = 8, 2, 8, 400
NUMBERS = """
model = "load"
task = "{task}"
[input]
kind = "window"
samples = 8
[output]
decoder = "values"
"""
MASKS = """
model = "ground"
task = "segmentation"
[input]
kind = "image"
width = 8
height = 8
scale = [255.0]
[output]
decoder = "mask"
classes = ["dark", "light"]
"""


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    (tmp_path / "state").mkdir()
    shutil.copyfile(migrated_sqlite_file, tmp_path / "state" / "hub.db")
    database = Database(sqlite_url(tmp_path / "state"))
    yield open_hub(tmp_path / "state", database)
    database.close()


def model(nodes: list[Any], given: list[int], told: list[int], **weights: np.ndarray) -> bytes:
    """Return a graph from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, told)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(made.SerializeToString())


def linear(weights: np.ndarray) -> bytes:
    """Return a model whose values are a window times (8, k)."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    return model(nodes, [1, 1, SAMPLES], [1, weights.shape[1]], w=weights.astype(np.float32))


def shade(limit: float) -> bytes:
    """Return a model that tells light from dark pixels."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    w = np.array([-np.ones(3), np.ones(3)], np.float32).reshape(2, 3, 1, 1)
    b = np.array([3 * limit, -3 * limit], np.float32)
    return model(nodes, [1, 3, SIDE, SIDE], [1, 2, SIDE, SIDE], w=w, b=b)


def add_set(hub: ReleaseService, name: str, **arrays: np.ndarray) -> None:
    np.savez(file := io.BytesIO(), **arrays)  # type: ignore[arg-type]
    hub.evaluation_sets.add(name, file.getvalue())


def judged(hub: ReleaseService, data: bytes, spec: str) -> Verdict:
    try:
        hub.add(
            model_bytes=data,
            spec_bytes=spec.encode(),
            golden_bytes=None,
            metrics={},
            notes="",
            lineage_id=None,
        )
    except GateRefusedError as error:
        return error.candidate.verdict
    name = "ground" if "segmentation" in spec else "load"
    return hub.candidates.candidates(name)[0].verdict


def test_a_regression_is_measured_and_a_worse_one_refused(hub: ReleaseService) -> None:
    items = np.random.default_rng(0).standard_normal((COUNT, SAMPLES, 1)).astype(np.float32)
    add_set(hub, "load", items=items, labels=items.sum(axis=1) * 10.0)
    spec, right = NUMBERS.format(task="regression"), np.full((SAMPLES, 1), 10.0)
    first = judged(hub, linear(right), spec)
    assert first.is_passed, first.reasons
    whole = first.slices[0]
    assert (whole.measure, whole.answer) == (Measure.VALUES, Answer.FIRST)
    assert whole.scores_new is not None
    assert whole.scores_new.mae == pytest.approx(0.0, abs=1e-4)
    rows = {row.name: row for row in first.variants}
    assert rows["int8-dynamic"].scores is not None
    assert rows["int8-dynamic"].agreement is not None
    alike = judged(hub, linear(right * 1.001), spec)
    assert (alike.is_passed, alike.slices[0].answer) == (True, Answer.NOT_WORSE)
    worse = judged(hub, linear(right * 0.5), spec)
    assert [reason.code for reason in worse.reasons] == ["gate.worse"]
    assert "mean absolute error" in worse.reasons[0].text


def test_a_forecast_is_measured_by_what_follows_its_window(hub: ReleaseService) -> None:
    start = np.random.default_rng(0).uniform(-5, 5, (COUNT, 1, 1))
    items = (start + np.arange(SAMPLES + AHEAD)[None, :, None]).astype(np.float32)
    add_set(hub, "load", items=items)
    weights = np.zeros((SAMPLES, AHEAD))
    weights[-2:] = [[-1.0, -2.0], [2.0, 3.0]]  # As much more as between the last two
    verdict = judged(hub, linear(weights), NUMBERS.format(task="forecast"))
    assert verdict.is_passed, verdict.reasons
    assert verdict.slices[0].scores_new is not None
    assert verdict.slices[0].scores_new.mae == pytest.approx(0.0, abs=1e-3)
    misfit = judged(hub, linear(weights[:, :1]), NUMBERS.format(task="forecast"))
    assert "gate.evaluation_run" in [reason.code for reason in misfit.reasons]


def test_masks_are_measured_and_a_worse_model_refused(hub: ReleaseService) -> None:
    items = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 1), dtype=np.uint8)
    masks = (items[..., 0] > 127).astype(np.uint8)
    masks[:, 0] = 255
    add_set(hub, "ground", items=items.repeat(3, axis=3), masks=masks)
    first = judged(hub, shade(0.5), MASKS)
    assert first.is_passed, first.reasons
    whole = first.slices[0]
    assert whole.scores_new is not None
    assert whole.measure is Measure.PICTURE_IOU
    assert whole.scores_new.mean == pytest.approx(1.0)
    worse = judged(hub, shade(0.7), MASKS)
    assert [reason.code for reason in worse.reasons] == ["gate.worse"]
    assert "mean IoU of a picture went" in worse.reasons[0].text
