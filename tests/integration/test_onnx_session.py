"""OnnxSession and golden proof with real onnxruntime."""

import gc
import threading
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from onnx import TensorProto

from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.onnx_session import load_onnx_session
from shared.errors import RefusedError
from shared.model.spec import ModelSpec
from shared.release.golden import GoldenSet
from tests.support.onnx_models import (
    SIDE,
    colour_spec,
    echo_spec,
    write_batch_model,
    write_colour_model,
    write_picky_model,
    write_two_input_model,
    write_zero_model,
)
from tests.support.requirements import require_data

BATCH = np.random.default_rng(5).uniform(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)


def test_a_model_runs_and_says_what_runs_it(tmp_path: Path) -> None:
    session = load_onnx_session(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    (logits,) = session.run(BATCH)
    np.testing.assert_allclose(logits, 8.0 * BATCH.mean(axis=(2, 3)), rtol=1e-5)
    assert session.runtime.startswith("onnxruntime ")
    assert session.runtime.endswith("CPUExecutionProvider")
    assert session.input_dtype == np.float32


def test_a_uint8_model_is_taken_and_says_so(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx", dtype=TensorProto.UINT8)
    session = load_onnx_session(path, colour_spec())
    assert session.input_dtype == np.uint8
    pixels = np.full((1, 3, SIDE, SIDE), 51, np.uint8)
    np.testing.assert_allclose(session.run(pixels)[0], [[1.6, 1.6, 1.6]], rtol=1e-5)


def test_a_named_axis_takes_any_size(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx", side="side")
    assert load_onnx_session(path, colour_spec(16)).run(np.ones((1, 3, 16, 16), np.float32))


def test_more_rows_than_a_fixed_batch_axis_takes_are_refused_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = load_onnx_session(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    with pytest.raises(RefusedError, match="takes 1 at a time; the batch has 3"):
        session.run(np.repeat(BATCH, 3, axis=0))
    assert capfd.readouterr().err == ""


def test_an_open_batch_axis_takes_many_rows(tmp_path: Path) -> None:
    path = write_batch_model(tmp_path / "m.onnx", samples=4)
    session = load_onnx_session(path, echo_spec(4))
    windows = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    np.testing.assert_array_equal(session.run(windows)[0], 2 * windows)


def test_one_session_serves_threads_together(tmp_path: Path) -> None:
    session = load_onnx_session(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    expected = session.run(BATCH)[0]
    wrong: list[int] = []

    def ask() -> None:
        wrong.extend(1 for _ in range(200) if not np.array_equal(session.run(BATCH)[0], expected))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert not wrong


@pytest.mark.parametrize(
    ("write", "spec", "code", "says"),
    [
        (lambda p: p, colour_spec(), "model.unloadable", "There is no model"),
        (lambda p: _bytes(p, b"not a model"), colour_spec(), "model.unloadable", "Cannot load"),
        (lambda p: _bytes(p, b""), colour_spec(), "model.unloadable", "Cannot load"),
        (
            write_colour_model, colour_spec(16), "model.input_mismatch",
            r"expects one float32 or uint8 input of shape \(1, 3, 16, 16\); "
            r"the model has image float32 \[1, 3, 8, 8\]",
        ),
        (write_colour_model, echo_spec(8), "model.input_mismatch", r"\(1, 1, 8\)"),
        (write_two_input_model, colour_spec(), "model.input_mismatch", "one .*, two"),
        (
            lambda p: write_colour_model(p, dtype=TensorProto.DOUBLE, gain=1.0),
            colour_spec(), "model.unloadable", "Cannot load",
        ),
        (
            lambda p: write_colour_model(p, outputs=("logits", "more")), colour_spec(),
            "inference.output", "decoder logits expects",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_saying_what_was_expected(
    tmp_path: Path, write: object, spec: ModelSpec, code: str, says: str
) -> None:
    path = write(tmp_path / "m.onnx")  # type: ignore[operator]
    with pytest.raises(RefusedError, match=says) as caught:
        load_onnx_session(path, spec)
    assert caught.value.code == code
    assert caught.value.remedy


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_failure_within_the_graph_is_told_and_the_session_lives_on(tmp_path: Path) -> None:
    spec = echo_spec(4)
    spec = msgspec.structs.replace(
        spec, output=msgspec.structs.replace(spec.output, decoder="score")
    )
    session = load_onnx_session(write_picky_model(tmp_path / "m.onnx", samples=4), spec)
    with pytest.raises(RefusedError) as caught:
        session.run(np.full((1, 1, 4), 7.0, np.float32))
    assert caught.value.code == "inference.failed"
    assert session.run(np.zeros((1, 1, 4), np.float32))[0] == 0.25


def golden_of(spec: ModelSpec, path: Path, count: int = 3) -> GoldenSet:
    session = load_onnx_session(path, spec)
    inputs = np.random.default_rng(2).uniform(0, 1, (count, *spec.input_shape[1:]))
    inputs = inputs.astype(session.input_dtype)
    outputs = np.concatenate([session.run(inputs[i : i + 1])[0] for i in range(count)])
    return GoldenSet(inputs, (outputs,))


def test_golden_outputs_are_reproduced(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx")
    result = prove_golden(load_onnx_session(path, colour_spec()), [golden_of(colour_spec(), path)])
    assert result.is_within
    assert result.items_count == 3
    assert result.error_max == 0.0


def test_another_models_golden_outputs_are_not(tmp_path: Path) -> None:
    golden = golden_of(colour_spec(), write_colour_model(tmp_path / "one.onnx"))
    other = load_onnx_session(write_colour_model(tmp_path / "b.onnx", gain=8.5), colour_spec())
    result = prove_golden(other, [golden])
    assert not result.is_within
    assert result.error_max == pytest.approx(0.5 * golden.inputs.mean(axis=(2, 3)).max(), rel=1e-4)


def test_golden_outputs_of_another_count_are_infinitely_far(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx")
    golden = golden_of(colour_spec(), path)
    session = load_onnx_session(path, colour_spec())
    doubled = GoldenSet(golden.inputs, golden.outputs * 2)
    assert prove_golden(session, [doubled]).error_max == float("inf")


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 3, 4, 4), np.float32),
        np.zeros((2, 3, SIDE, SIDE), np.uint8),
    ],
)
def test_golden_inputs_of_another_model_are_refused(tmp_path: Path, inputs: np.ndarray) -> None:
    session = load_onnx_session(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    with pytest.raises(RefusedError) as caught:
        prove_golden(session, [GoldenSet(inputs, (np.zeros((2, 3), np.float32),))])
    assert caught.value.code == "golden.input"


def test_a_reconstruction_model_loads_against_its_spec(tmp_path: Path) -> None:
    path = write_zero_model(tmp_path / "m.onnx", samples=6, channels=2)
    assert load_onnx_session(path, echo_spec(6, 2)).run(np.ones((1, 2, 6), np.float32))


@pytest.mark.slow
def test_memory_comes_back_after_many_swaps() -> None:
    path = require_data("models/FastestDet.onnx")
    spec_path = Path(__file__).parents[2] / "deploy" / "examples" / "fastestdet.toml"
    spec = msgspec.toml.decode(spec_path.read_bytes(), type=ModelSpec)
    batch = np.zeros(spec.input_shape, np.float32)

    def swap(times: int) -> float:
        for _ in range(times):
            session = load_onnx_session(path, spec)
            session.run(batch)
            del session
        gc.collect()
        return psutil.Process().memory_info().rss / 1e6

    after_few, after_many = swap(3), swap(25)
    assert after_many - after_few < 8.0, f"{after_few:.0f} MB, then {after_many:.0f} MB"
