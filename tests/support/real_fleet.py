"""A real hub and real agents as processes of their own, which tests can kill and start again."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from shared.release.golden import encode_golden
from tests.support.tiny_items import SAMPLES, templates
from tests.support.tiny_releases import CLASSES, Kind, artifact_of, golden_of
from tests.support.waiting import wait_until

BIN = Path(sys.executable).parent
START_S_MAX = 30.0
ROWS = 3000
SPEC_TOML = f"""\
model = "tones"
task = "classification"
[input]
kind = "window"
samples = {SAMPLES}
[output]
decoder = "logits"
classes = {json.dumps(CLASSES)}
"""
AGENT_TOML = """\
[telemetry]
window_s = 1.0
[updates]
poll_s = 0.05
retry_s_min = 0.2
retry_s_max = 1.0
[publisher]
resend_s = 1.0
resend_s_max = 2.0
[link]
backoff_s_min = 0.1
backoff_s_max = 1.0
[transfer]
answer_s_min = 0.5
answer_s_max = 1.0
[[pipelines]]
name = "bench"
model = "tones"
[pipelines.source]
kind = "csv"
path = "{csv}"
columns = ["value"]
rate_hz = {rate_hz}
loop = true
[pipelines.source.window]
samples = {samples}
step = {samples}
[[pipelines.sinks]]
kind = "hub"
which = "all"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One process that can be killed and started again with the same command."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False  # It should be running

    def check(self) -> None:
        """Fail with its last words if it has ended by itself."""
        if self._is_wanted and not self.is_running:
            raise AssertionError(f"{self.name} ended: {self.log.read_text()[-3000:]}")

    def start(self) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=env
            )
        self._is_wanted = True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Send it SIGKILL."""
        assert self._process is not None
        self._is_wanted = False
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end, as systemd does; return its exit code."""
        assert self._process is not None
        self._is_wanted = False
        self._process.terminate()
        return self._process.wait(20)


class RealHub(Process):
    """`cloud-hub serve` on ports of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.state = folder / "hub"
        self.http_port, self.https_port, self.mqtt_port = free_port(), free_port(), free_port()
        command = [str(BIN / "cloud-hub"), "serve", "--no-discovery", "--state", str(self.state)]
        command += ["--host-name", "127.0.0.1", "--http", f"127.0.0.1:{self.http_port}"]
        command += ["--https", f"127.0.0.1:{self.https_port}"]
        if "--broker" not in options:
            command += ["--mqtt", f"127.0.0.1:{self.mqtt_port}"]
        super().__init__("hub", [*command, *options], folder)
        self.agents: list[RealAgent] = []
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", timeout=30.0)

    def start(self) -> None:
        """Start it; return when it answers."""
        (self.state / "run" / "local-token").unlink(missing_ok=True)
        super().start()
        wait_until(self._answers, seconds_max=START_S_MAX)
        token = (self.state / "run" / "local-token").read_text().strip()
        self._http.headers["Authorization"] = f"Bearer {token}"

    def _answers(self) -> bool:
        assert self.is_running, self.log.read_text()[-3000:]
        try:
            return self._http.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()
        if self.is_running:
            self.stop()

    def check_all(self) -> None:
        """Fail if the hub or one of its agents has ended by itself."""
        for process in (self, *self.agents):
            process.check()

    def get(self, path: str, **params: str | int) -> Any:
        answer = self._http.get(f"/api/v1{path}", params=params)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.post(f"/api/v1{path}", json=body or {})
        assert answer.is_success, answer.text
        return answer.json()

    def add_release(self, kind: Kind) -> int:
        """Upload a tiny release; return its version."""
        data = artifact_of(kind)
        files = {
            "model": ("model.onnx", data),
            "spec": ("spec.toml", SPEC_TOML.encode()),
            "golden": ("golden.npz", encode_golden(golden_of(data, kind))),
        }
        answer = self._http.post("/api/v1/releases", files=files, timeout=120.0)
        assert answer.is_success, answer.text
        return int(answer.json()["version"])

    def roll_out(self, version: int, **order: Any) -> str:
        """Start a quick rollout of "tones" to everyone; return its id."""
        trial = {"items_min": 20, "deadline_s": 60.0} | order.pop("trial", {})
        body = {"model": "tones", "version": version, "waves": ["100%"], "trial": trial}
        body |= {"wave_deadline_s": 90.0, "bake_s": 0.5, "bake_items_min": 0} | order
        return str(self.post("/rollouts", body)["rollout"]["rollout_id"])

    def rollout_state(self, rollout: str) -> str:
        return str(self.get(f"/rollouts/{rollout}")["rollout"]["state"])

    def model_on(self, device: str) -> dict[str, Any]:
        """Return what a device last reported of "tones"."""
        models = self.get(f"/devices/{device}/models")["models"]
        found = [model for model in models if model["model"] == "tones"]
        return found[0] if found else {"version": 0, "state": "unheard of"}


class RealAgent(Process):
    """`edge-agent run`, joined by the command that the hub prints."""

    def __init__(self, name: str, folder: Path, hub: RealHub, *, rate_hz: int = 800) -> None:
        self.state = folder / name
        csv = folder / "tones.csv"
        if not csv.exists():
            rng = np.random.default_rng(1)
            rows = np.tile(templates().reshape(-1), ROWS // (3 * SAMPLES))
            rows = rows + rng.normal(0.0, 0.05, len(rows))
            csv.write_text("value\n" + "\n".join(f"{value:.5f}" for value in rows) + "\n")
        config = folder / f"{name}.toml"
        config.write_text(AGENT_TOML.format(csv=csv, rate_hz=rate_hz, samples=SAMPLES))
        self.device = self._join(name, hub)
        command = [str(BIN / "edge-agent"), "run", "--config", str(config)]
        super().__init__(name, [*command, "--state", str(self.state)], folder)
        hub.agents.append(self)

    def _join(self, name: str, hub: RealHub) -> str:
        command = hub.post("/tokens", {"name": name, "groups": ["bench"]})["join_command"]
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [str(BIN / program), *arguments, "--state", str(self.state), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout.splitlines()[-1])["device_id"])

    def status(self) -> dict[str, Any] | None:
        """Return what `edge-agent status --json` says; None while no agent runs."""
        done = subprocess.run(
            [str(BIN / "edge-agent"), "status", "--json", "--state", str(self.state)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer if done.returncode == 0 else None
