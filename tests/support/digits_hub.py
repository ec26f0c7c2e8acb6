"""A hub that has learned digits in the cloud: real data, trainer, report, gate and release.

Training takes half a minute of processor time, so the hub is made once for all tests that look at
it; they mark themselves with GROUP and add to it only what others do not see.
"""

import contextlib
import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from cloud_hub.command_line.parser import build_parser, parse, run
from tests.support.api_client import ApiHub, open_api_hub
from tests.support.waiting import wait_until

GROUP = "digits-hub"
MODEL = "numerals"
DATASET = "digits"
PICTURES = 700
SPEC = f"""
model = "{MODEL}"
task = "classification"
[input]
kind = "image"
width = 8
height = 8
colour = "gray"
mean = [80.0]
scale = [96.0]
[output]
decoder = "logits"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""
NETWORK = '[architecture]\nkind = "cnn"\nchannels = [16, 32]\nhidden = 32\n'
QUICK = ("--device", "cpu", "--set", "recipe.threads=1", "--batch", "32", "--precision", "fp32")
SECONDS_MAX = 240.0
TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Typed:
    """How a command typed in this process ended, and what it wrote."""

    code: int
    out: str


@dataclass(frozen=True, slots=True)
class DigitsHub:
    """The hub, and the two Jobs that it has done."""

    hub: ApiHub
    folder: Path  # With spec.toml, network.toml and pictures/<class>/
    said: Typed  # By `cloud-hub train --watch` of the first
    first: str  # Released
    second: str  # Went on from the first, less well, and was not released

    def get(self, path: str, **query: Any) -> Any:
        answer = self.hub.client().get(path, params=query, timeout=60.0)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def type(self, *words: object) -> Typed:
        return type_here(self.hub, *words)


def type_here(hub: ApiHub, *words: object) -> Typed:
    """Carry out a command in this process against a hub."""
    places = ("--hub", hub.url, "--state", str(hub.state))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(parse(build_parser(), [*map(str, words), *places]))
    return Typed(code, out.getvalue())


def type_in_terminal(hub: ApiHub, *words: object) -> Typed:
    """Carry out a command in a process whose output is a terminal; return all it has shown."""
    shown, terminal = pty.openpty()
    places = ("--hub", hub.url, "--state", str(hub.state))
    command = [sys.executable, "-m", "cloud_hub", *map(str, words), *places]
    wide = os.environ | {"COLUMNS": "150", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=wide) as process:
        os.close(terminal)
        out = bytearray()
        with contextlib.suppress(OSError):  # Linux says EIO when the other side is closed
            while piece := os.read(shown, 4096):
                out += piece
        os.close(shown)
        return Typed(process.wait(timeout=SECONDS_MAX), out.decode())


def write_digits(folder: Path, *, count: int = PICTURES) -> Path:
    """Write pictures of digits into a folder of each class."""
    source = load_digits()
    pictures = (source.images * 15).astype(np.uint8)
    for index in range(count):
        place = folder / str(source.target[index])
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index:04}.png"), pictures[index])
    return folder


@contextmanager
def training(hub: ApiHub) -> Iterator[None]:
    """Let the hub do what it does by itself: train what is ordered, and settle what came of it."""
    stop = threading.Event()
    jobs = hub.services.cloud_jobs

    def tick() -> None:
        while not stop.wait(TICK_S):
            jobs.tick()
            jobs.settle()
            hub.clock.advance(TICK_S)

    thread = threading.Thread(target=tick, name="training")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def settled(hub: ApiHub, job_id: str) -> dict[str, Any]:
    """Return a Job once nothing more comes of it."""

    def done() -> dict[str, Any] | None:
        found: dict[str, Any] = hub.client().get(f"/api/v1/cloud-jobs/{job_id}").json()
        return found if found["is_settled"] else None

    found = wait_until(done, seconds_max=SECONDS_MAX)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def digits_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DigitsHub]:
    """The hub, served; see above."""
    folder = tmp_path_factory.mktemp("digits-hub")
    (folder / "spec.toml").write_text(SPEC)
    (folder / "network.toml").write_text(NETWORK)
    state = folder / "state"
    state.mkdir()
    hub = open_api_hub(state)
    pictures = write_digits(folder / "pictures")
    hub.services.datasets.import_file(DATASET, pictures, by="ada")
    try:
        with hub.serve(), training(hub):
            words = ("train", "--dataset", DATASET, "--spec", folder / "spec.toml", *QUICK)
            said = type_here(
                hub, *words, "--network", folder / "network.toml", "--epochs", 2, "--optimiser",
                "adamw", "--learning-rate", 0.01, "--owner", "lab", "--watch",
            )  # fmt: skip
            first = hub.client().get("/api/v1/cloud-jobs").json()["jobs"][0]["job_id"]
            order = {
                "model": MODEL,
                "dataset": DATASET,
                "checkpoint": settled(hub, first)["result_checkpoint_id"],
                "recipe": {"epochs": 1, "batch": 32, "learning_rate": 20.0, "threads": 1},
                "device": "cpu",
                "is_released": False,
            }
            second = hub.client().post("/api/v1/cloud-jobs", json=order, timeout=60.0).json()
            settled(hub, second["job_id"])
            yield DigitsHub(hub, folder, said, first, second["job_id"])
    finally:
        hub.services.cloud_jobs.close()
        hub.close()
