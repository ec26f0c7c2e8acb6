"""A pipeline that a hub orders: a pump's sensor on a broker near the device, and its model.

The model's reconstruction is always 0, so the score of a window is the mean square of its readings.
"""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from shared.release.golden import GoldenSet, encode_golden
from tests.support.local_broker import HOST
from tests.support.onnx_models import write_zero_model
from tests.support.real_fleet import RealHub
from tests.support.waiting import wait_until

MODEL, PIPELINE, TOPIC = "pump", "pump-watch", "plant/pump"
SAMPLES = 8
READING = 1.0  # All the time: the score is its square
SPEC = f"""
model = "{MODEL}"
task = "anomaly"
[input]
kind = "window"
samples = {SAMPLES}
[output]
decoder = "reconstruction"
threshold = 0.5
"""
ORDER = """
name = "{name}"
model = "{model}"
[source]
kind = "mqtt"
topic = "{topic}"
port = {port}
[source.window]
samples = {samples}
step = {samples}
[decisions]
threshold = {threshold}
[[sinks]]
{sink}
"""
TO_THE_HUB = 'kind = "hub"\nwhich = "all"'


def order(folder: Path, port: int, *, threshold: float, sink: str = TO_THE_HUB) -> Path:
    """Write the file for `cloud-hub pipelines set`."""
    path = folder / "order.toml"
    path.write_text(
        ORDER.format(
            name=PIPELINE,
            model=MODEL,
            topic=TOPIC,
            port=port,
            samples=SAMPLES,
            threshold=threshold,
            sink=sink,
        )
    )
    return path


def add_release(hub: RealHub, folder: Path) -> int:
    """Upload the model; return the release's version."""
    model = write_zero_model(folder / "pump.onnx", samples=SAMPLES)
    shape = (4, 1, SAMPLES)
    inputs = np.random.default_rng(2).uniform(-1.0, 1.0, shape).astype(np.float32)
    golden = GoldenSet(inputs, (np.zeros(shape, np.float32),))
    files = {
        "model": ("model.onnx", model.read_bytes()),
        "spec": ("spec.toml", SPEC.encode()),
        "golden": ("golden.npz", encode_golden(golden)),
    }
    answer = hub.ask("POST", "/releases", files=files, timeout=120.0)
    assert answer.is_success, answer.text
    return int(answer.json()["version"])


class Pump:
    """Publishes readings until it is closed."""

    def __init__(self, port: int, *, readings_per_s: float = 200.0) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        wait_until(lambda: self._connects(port))
        self._client.loop_start()
        self._stop = threading.Event()
        self._pause_s = SAMPLES / readings_per_s
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _connects(self, port: int) -> bool:
        try:
            return self._client.connect(HOST, port) == 0
        except OSError:
            return False

    def _run(self) -> None:
        payload = json.dumps({"values": [READING] * SAMPLES})
        while not self._stop.wait(self._pause_s):
            self._client.publish(TOPIC, payload)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10.0)
        self._client.disconnect()
        self._client.loop_stop()


def decisions(hub: RealHub, device: str) -> list[dict[str, Any]]:
    """Return the newest decisions of the ordered pipeline that the hub has, oldest first."""
    found: list[dict[str, Any]] = hub.get(
        f"/devices/{device}/decisions", pipeline=PIPELINE, limit=500
    )["decisions"]
    return sorted(found, key=lambda decision: int(decision["id"]))
