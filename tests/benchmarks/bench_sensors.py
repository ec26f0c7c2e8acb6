"""What 1,000 sensors through one model cost: windows of 256 x 3, one a second from each.

Run: python -m tests.benchmarks.bench_sensors [--sensors N] [--seconds S] [--batch N]
Prints one JSON line. Every sensor's message goes through the same feed as behind a broker (payload
to rows to its ring to a batch), then through onnxruntime on one thread. Two ways to come to one
window a second: a message with a whole window (tumbling), and one with a single row (sliding).
`bare_*` is the same session on arrays that lie ready; shares are of one core, at one window a
second from each sensor.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_agent.sources.sensor_feed import SensorFeed, SensorWindows
from shared.pipeline.sources import BatchSettings, MqttSettings, PayloadForm, WindowSettings

SAMPLES, CHANNELS = 256, 3
# (channels in, channels out, kernel, stride) of a 1-D CNN such as a vibration sensor has.
LAYERS = ((3, 16, 7, 2), (16, 32, 5, 2), (32, 32, 3, 2))
CLASSES = 6
REPEATS = 5

Array = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sensors", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    sensors, batch = arguments.sensors, arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        session = _open_session(_write_model(Path(folder) / "cnn.onnx"))
    alone_us = _bare_us(session, 1)
    together_us = _bare_us(session, batch)
    figures: dict[str, object] = {
        "bench": "sensors",
        "sensors": sensors,
        "window": f"{SAMPLES}x{CHANNELS}",
        "batch": batch,
        "bare_us_per_window": round(alone_us, 1),
        "bare_batched_us_per_window": round(together_us, 1),
    }
    for name, rows, step in (("tumbling", SAMPLES, SAMPLES), ("sliding", 1, 1)):
        for form in ("binary", "json"):
            us, feed_us = _pipeline_us(
                session, sensors, arguments.seconds, batch=batch, rows=rows, step=step, form=form
            )
            figures[f"{name}_{form}_us_per_window"] = round(us, 1)
            figures[f"{name}_{form}_feed_us_per_window"] = round(feed_us, 1)
            figures[f"{name}_{form}_core_share"] = round(us * sensors / 1e6, 3)
    print(json.dumps(figures))


def _pipeline_us(
    session: ort.InferenceSession,
    sensors: int,
    seconds: int,
    *,
    batch: int,
    rows: int,
    step: int,
    form: str,
) -> tuple[float, float]:
    """Return CPU microseconds per window: feed and model, and the feed alone."""
    feed = SensorFeed(
        MqttSettings(
            topic="plant/{sensor}",
            channels=CHANNELS,
            window=WindowSettings(samples=SAMPLES, step=step),
            payload=PayloadForm.BINARY if form == "binary" else PayloadForm.AUTO,
            batch=BatchSettings(windows_max=batch, wait_s_max=0.05),
            sensors_max=sensors,
        )
    )
    names = [f"sensor-{index:04}" for index in range(sensors)]
    payload = _payload(rows, form)
    whole = _payload(SAMPLES, form)
    for name in names:  # Every ring is full, so that each message completes a window
        for _ in feed.feed(name, whole, 0.0, wall_s=0.0):
            pass
    while feed.take(1e9) is not None:
        pass
    windows, model_ns, started_ns = 0, 0, time.process_time_ns()
    for second in range(1, seconds + 1):
        for name in names:
            for found in feed.feed(name, payload, float(second), wall_s=float(second)):
                model_ns += _run(session, found)
                windows += len(found.sensors)
        found_late = feed.take(second + 0.5)
        if found_late is not None:
            model_ns += _run(session, found_late)
            windows += len(found_late.sensors)
    spent_ns = time.process_time_ns() - started_ns
    assert windows == sensors * seconds, "a window was lost"
    return spent_ns / windows / 1e3, (spent_ns - model_ns) / windows / 1e3


def _run(session: ort.InferenceSession, found: SensorWindows) -> int:
    """Return the nanoseconds that the model took."""
    started_ns = time.process_time_ns()
    (scores,) = session.run(None, {"window": found.samples})
    assert scores.shape == (len(found.sensors), CLASSES)
    return time.process_time_ns() - started_ns


def _bare_us(session: ort.InferenceSession, batch: int) -> float:
    ready = np.random.default_rng(0).normal(size=(batch, SAMPLES, CHANNELS)).astype(np.float32)
    run: Callable[[], object] = lambda: session.run(None, {"window": ready})  # noqa: E731
    for _ in range(50):
        run()
    calls, best_ns = max(50, 2000 // batch), 1 << 62
    for _ in range(REPEATS):
        started_ns = time.process_time_ns()
        for _ in range(calls):
            run()
        best_ns = min(best_ns, time.process_time_ns() - started_ns)
    return best_ns / calls / batch / 1e3


def _payload(rows: int, form: str) -> bytes:
    values = np.random.default_rng(1).normal(size=rows * CHANNELS).astype("<f4")
    if form == "binary":
        return values.tobytes()
    return json.dumps({"values": [round(float(v), 4) for v in values]}).encode()


def _open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write_model(path: Path) -> Path:
    """Write (N, T, C) windows -> (N, classes): scaled in the graph, convolved, averaged."""
    dice = np.random.default_rng(2)
    weights: dict[str, Array] = {}
    nodes = [helper.make_node("Transpose", ["window"], ["x0"], perm=[0, 2, 1])]
    value = "x0"
    for index, (inside, outside, kernel, stride) in enumerate(LAYERS, 1):
        shape = (outside, inside, kernel)
        weights[f"w{index}"] = (dice.normal(size=shape) / 10).astype(np.float32)
        pads = [kernel // 2, kernel // 2]
        nodes += [
            helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], strides=[stride],
                             pads=pads, kernel_shape=[kernel]),
            helper.make_node("Relu", [f"c{index}"], [f"x{index}"]),
        ]  # fmt: skip
        value = f"x{index}"
    weights["last"] = dice.normal(size=(LAYERS[-1][1], CLASSES)).astype(np.float32)
    nodes += [
        helper.make_node("ReduceMean", [value], ["means"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["means", "last"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["n", SAMPLES, CHANNELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


if __name__ == "__main__":
    main()
