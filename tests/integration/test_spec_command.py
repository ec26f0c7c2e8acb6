"""edge-agent spec on real files: the draft is a spec, and has the head of the published one."""

from pathlib import Path

import msgspec
import onnx
import pytest

from edge_agent.__main__ import main
from shared.model.spec import ModelSpec, parse_spec
from tests.support.requirements import require_data

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def draft(path: Path, capsys: pytest.CaptureFixture[str]) -> ModelSpec:
    assert main(["spec", str(path)]) == 0
    return parse_spec(capsys.readouterr().out.encode())


@pytest.mark.parametrize(
    ("file", "example"),
    [("FastestDet.onnx", "fastestdet.toml"), ("version-RFB-320.onnx", "rfb320.toml")],
)
def test_the_draft_of_a_real_detector_has_its_head_and_sides(
    file: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drafted = draft(require_data(f"models/{file}"), capsys)
    written = parse_spec((EXAMPLES / example).read_bytes())
    assert drafted.input_shape == written.input_shape
    assert drafted.output.decoder is written.output.decoder
    assert len(drafted.output.classes) == len(written.output.classes)


def test_yunet_needs_only_its_class_and_resize_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = require_data("models/yunet_n_320_320.onnx")
    assert main(["spec", str(path), "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told["spec"]["output"]["decoder"] == "yunet"
    assert told["guessed"] == ["input.resize", "output.classes", "output.decoder"]


def test_metadata_of_a_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(require_data("models/FastestDet.onnx"))
    said = {"author": "Ultralytics", "task": "detect", "names": "{0: 'a'}", "imgsz": "[352, 352]"}
    onnx.helper.set_model_props(model, said)
    path = tmp_path / "best.onnx"
    onnx.save(model, path)
    assert main(["spec", str(path)]) != 0
    assert "none of YOLO's" in capsys.readouterr().err


def test_a_file_that_is_no_model_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(b"no model")
    assert main(["spec", str(path)]) != 0
    assert "best.onnx" in capsys.readouterr().err


def test_a_file_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = require_data("models/FastestDet.onnx"), tmp_path / "spec.toml"
    assert main(["spec", str(model), "--out", str(out), "--name", "cars"]) == 0
    assert parse_spec(out.read_bytes()).model == "cars"
    assert "input.scale" in capsys.readouterr().err, "what was guessed is said"
    out.write_text("mine")
    assert main(["spec", str(model), "--out", str(out)]) != 0
    assert "spec.toml" in capsys.readouterr().err
    assert out.read_text() == "mine"
