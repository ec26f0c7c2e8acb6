"""What every ModelSession promises, in this process and in one of its own."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto

from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.openvino_session import load_openvino_session
from edge_agent.inference.process_session import Backend, start_worker
from edge_agent.inference.session import ModelSession
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from shared.errors import RefusedError
from shared.model.spec import Decoder, ModelSpec
from tests.support.onnx_models import (
    SIDE,
    colour_spec,
    echo_spec,
    write_batch_model,
    write_colour_model,
    write_picky_model,
    write_two_input_model,
)

Load = Callable[[Path, ModelSpec], ModelSession]
_LOADERS: dict[str, Load] = {
    "in-process": load_onnx_session,
    "openvino": load_openvino_session,
    "worker": lambda path, spec: start_worker(
        path, spec, WorkerLimits(), threads=2, clock=SystemClock()
    ),
    "openvino-worker": lambda path, spec: start_worker(
        path, spec, WorkerLimits(), threads=2, clock=SystemClock(), backend=Backend.OPENVINO
    ),
}
BATCH = np.random.default_rng(5).uniform(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(params=["in-process", "worker", "openvino", "openvino-worker"])
def load(request: pytest.FixtureRequest) -> Iterator[Load]:
    opened: list[ModelSession] = []

    def load_one(path: Path, spec: ModelSpec) -> ModelSession:
        session = _LOADERS[request.param](path, spec)
        opened.append(session)
        return session

    yield load_one
    for session in opened:
        session.close()
        session.close()  # Harmless


def test_a_foreign_batch_and_an_own_buffer_give_the_same(tmp_path: Path, load: Load) -> None:
    session = load(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    (expected,) = session.run(BATCH)
    np.testing.assert_allclose(expected, 8.0 * BATCH.mean(axis=(2, 3)), rtol=1e-5)
    buffer = session.new_input()
    assert (buffer.shape, buffer.dtype) == (BATCH.shape, session.input_dtype)
    for factor in (1.0, 0.5, 2.0):
        np.copyto(buffer, BATCH * np.float32(factor))
        np.testing.assert_allclose(session.run(buffer)[0], expected * factor, rtol=1e-5)


def test_it_says_what_runs_it_and_what_it_takes(tmp_path: Path, load: Load) -> None:
    path = write_colour_model(tmp_path / "m.onnx", dtype=TensorProto.UINT8)
    session = load(path, colour_spec())
    assert session.input_dtype == np.uint8
    assert session.spec == colour_spec()
    assert re.fullmatch(r"(onnxruntime \S+ CPUExecutionProvider|openvino \S+ CPU)", session.runtime)


def test_buffers_do_not_see_each_other(tmp_path: Path, load: Load) -> None:
    session = load(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    one, two = session.new_input(), session.new_input()
    one.fill(0.25)
    two.fill(0.75)
    first, second = session.run(one)[0], session.run(two)[0]
    np.testing.assert_allclose(first, np.full((1, 3), 2.0), rtol=1e-5)
    np.testing.assert_allclose(second, np.full((1, 3), 6.0), rtol=1e-5)


def test_a_batch_of_many_is_taken_where_the_model_takes_any(tmp_path: Path, load: Load) -> None:
    session = load(write_batch_model(tmp_path / "m.onnx", samples=32), echo_spec(32))
    for count in (1, 7, 3, 5000):
        batch = np.random.default_rng(count).normal(size=(count, 1, 32)).astype(np.float32)
        np.testing.assert_array_equal(session.run(batch)[0], 2.0 * batch)


def test_threads_get_their_own_answers(tmp_path: Path, load: Load) -> None:
    session = load(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    wrong: list[object] = []

    def ask(number: int) -> None:
        buffer = session.new_input()
        for turn in range(100):
            buffer.fill((number * 100 + turn) / 400)
            value = session.run(buffer)[0][0, 0]
            if abs(value - 8.0 * (number * 100 + turn) / 400) > 1e-4:
                wrong.append((number, turn, value))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert not wrong


def test_a_failure_within_the_graph_is_told_and_the_session_lives_on(
    tmp_path: Path, load: Load
) -> None:
    spec = echo_spec(4)
    spec = msgspec.structs.replace(
        spec, output=msgspec.structs.replace(spec.output, decoder=Decoder.SCORE)
    )
    session = load(write_picky_model(tmp_path / "m.onnx", samples=4), spec)
    if session.runtime.startswith("openvino"):  # It takes an index out of range for one of a zero
        session.run(np.full((1, 1, 4), 7.0, np.float32))
        assert session.run(np.zeros((1, 1, 4), np.float32))[0] == 0.25
        return
    with pytest.raises(RefusedError) as caught:
        session.run(np.full((1, 1, 4), 7.0, np.float32))
    assert caught.value.code == "inference.failed"
    assert session.run(np.zeros((1, 1, 4), np.float32))[0] == 0.25


@pytest.mark.parametrize(
    "batch", [np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 3, SIDE, SIDE), np.float64)]
)
def test_a_batch_of_another_form_is_refused(tmp_path: Path, load: Load, batch: np.ndarray) -> None:
    session = load(write_colour_model(tmp_path / "m.onnx"), colour_spec())
    with pytest.raises(RefusedError) as caught:
        session.run(batch)
    assert caught.value.code == "inference.failed"


@pytest.mark.parametrize(
    ("write", "spec", "code"),
    [
        (lambda path: path, colour_spec(), "model.unloadable"),
        (lambda path: path.write_bytes(b"no model") and path, colour_spec(), "model.unloadable"),
        (write_colour_model, colour_spec(16), "model.input_mismatch"),
        (write_two_input_model, colour_spec(), "model.input_mismatch"),
        (
            lambda path: write_colour_model(path, outputs=("logits", "more")),
            colour_spec(),
            "inference.output",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(
    tmp_path: Path, load: Load, write: Callable[[Path], Path], spec: ModelSpec, code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        load(write(tmp_path / "m.onnx"), spec)
    assert caught.value.code == code
    assert caught.value.remedy
