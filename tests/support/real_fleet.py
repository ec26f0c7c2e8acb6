"""A real hub, real agents and a real broker as processes that tests can kill and start again.

The hub's broker is its own, unless a RealBroker is given: mosquitto with deploy/mosquitto's files.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from edge_agent.updates.journal import Journal
from shared.release.golden import encode_golden
from tests.support.brokers import write_mosquitto_config
from tests.support.requirements import require_program
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
free_bytes_min = {free_bytes_min}
[link]
backoff_s_min = 0.1
backoff_s_max = 1.0
keepalive_s = 5
{patience}
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

HASTY = """\
[publisher]
gather_s = 0.25
resend_s = 1.0
resend_s_max = 2.0
[transfer]
answer_s_min = 0.5
answer_s_max = 1.0
disk_reserve_bytes = 0
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HubAnswerError(AssertionError):
    """The hub said no."""


class Process:
    """One process that can be killed and started again with the same command."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.env: dict[str, str] = {}  # On top of ours, from the next start on
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False  # It should be running

    def check(self) -> None:
        """Fail with its last words if it has ended by itself."""
        if self._is_wanted and not self.is_running:
            raise AssertionError(f"{self.name} ended: {self.log.read_text()[-3000:]}")

    def start(self) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | self.env
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
    def is_new(self) -> bool:
        """Whether it was never started."""
        return self._process is None

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


class RealBroker(Process):
    """mosquitto, as deploy/mosquitto has it, with the hub's own certificates."""

    def __init__(self, folder: Path) -> None:
        """Choose where it listens; it can be started once the hub has made its certificates."""
        self.port = free_port()
        self._folder = folder / "mosquitto"
        self.crl_path.parent.mkdir(parents=True)  # The hub puts its list there at its start.
        command = [require_program("mosquitto"), "-c", str(self._folder / "mosquitto.conf")]
        super().__init__("mosquitto", command, folder)

    @property
    def crl_path(self) -> Path:
        """Return where it reads which certificates are revoked."""
        return self._folder / "etc" / "crl.pem"

    def set_up(self, pki: Path) -> None:
        """Write its files."""
        write_mosquitto_config(self._folder, pki=pki, port=self.port)

    def start(self) -> None:
        """Start it; return when it listens."""
        super().start()
        wait_until(lambda: not self.is_running or self._listens(), seconds_max=START_S_MAX)
        self.check()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class RealHub(Process):
    """`cloud-hub serve` on ports of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        broker: RealBroker | None = None,
        database: str = "",
        state: Path | None = None,
        settings: str = "",
        host_names: Sequence[str] = ("127.0.0.1",),
    ) -> None:
        """Args: see below.

        database: its URL; empty for the file in the state folder.
        settings: what else its configuration file holds, as TOML.
        host_names: for which its certificate is good; the first is told to devices.
        """
        self.state = state or folder / "hub"
        self.database = database or f"sqlite:///{self.state / 'hub.db'}"
        self.broker = broker
        self.http_port, self.https_port, self.mqtt_port = free_port(), free_port(), free_port()
        self.learning_port = free_port()
        command = [str(BIN / "cloud-hub"), "serve", "--no-discovery", "--state", str(self.state)]
        for host_name in host_names:
            command += ["--host-name", host_name]
        command += ["--http", f"127.0.0.1:{self.http_port}"]
        command += ["--learning", f"127.0.0.1:{self.learning_port}"]
        command += ["--https", f"127.0.0.1:{self.https_port}", "--database", self.database]
        if broker is None:
            command += ["--mqtt", f"127.0.0.1:{self.mqtt_port}"]
        else:
            self.mqtt_port = broker.port
            command += ["--broker", f"mqtts://127.0.0.1:{broker.port}"]
            settings = f'broker_crl_path = "{broker.crl_path}"\n{settings}'
        config = folder / "hub.toml"
        config.write_text(settings)
        super().__init__("hub", [*command, "--config", str(config)], folder)
        self.agents: list[RealAgent] = []
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", timeout=30.0)

    def __enter__(self) -> "RealHub":
        """Start it; it is closed with the block, also when the start fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and its broker the first time; return when it answers."""
        (self.state / "run" / "local-token").unlink(missing_ok=True)
        super().start()
        wait_until(self._answers, seconds_max=START_S_MAX)
        token = (self.state / "run" / "local-token").read_text().strip()
        self._http.headers["Authorization"] = f"Bearer {token}"
        if self.broker is not None and self.broker.is_new:
            self.broker.set_up(self.state / "pki")
            self.broker.start()
        if self.broker is None or self.broker.is_running:
            wait_until(lambda: self.health()["is_good"], seconds_max=START_S_MAX)

    def health(self) -> Any:
        """Return what /health says, whatever its status."""
        return self._http.get("/health").json()

    def _answers(self) -> bool:
        assert self.is_running, self.log.read_text()[-3000:]
        try:
            return self._http.get("/health").status_code in (200, 503)
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()
        for process in (*self.agents, self, self.broker):
            if process is not None and process.is_running:
                process.stop()

    def check_all(self) -> None:
        """Fail if the hub, its broker or one of its agents has ended by itself."""
        for process in (self, self.broker, *self.agents):
            if process is not None:
                process.check()

    def get(self, path: str, **params: str | int) -> Any:
        answer = self._http.get(f"/api/v1{path}", params=params)
        _require_success(answer)
        return answer.json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.post(f"/api/v1{path}", json=body or {})
        _require_success(answer)
        return answer.json()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Return what the hub answers, whatever it is."""
        return self._http.request(method, f"/api/v1{path}", **more)

    def add_checkpoint(self, *, spec: bytes, network: bytes, weights: bytes | None = None) -> str:
        """Add a network, its weights drawn unless given; return the checkpoint's id."""
        files = {"spec": ("spec.toml", spec), "network": ("network.toml", network)}
        if weights is not None:
            files["weights"] = ("weights.npz", weights)
        answer = self._http.post("/api/v1/checkpoints", files=files, timeout=120.0)
        _require_success(answer)
        return str(answer.json()["checkpoint_id"])

    def put_evaluation_set(self, model: str, npz: bytes) -> None:
        """Give the gate what it judges a model by."""
        answer = self._http.put(f"/api/v1/models/{model}/evaluation-set", content=npz)
        _require_success(answer)

    def add_release(self, kind: Kind, *, padding_bytes: int = 0) -> int:
        """Upload a tiny release, made as large as it should be; return its version."""
        data = _padded(artifact_of(kind), padding_bytes)
        files = {
            "model": ("model.onnx", data),
            "spec": ("spec.toml", SPEC_TOML.encode()),
            "golden": ("golden.npz", encode_golden(golden_of(data, kind))),
        }
        answer = self._http.post("/api/v1/releases", files=files, timeout=120.0)
        _require_success(answer)
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

    def __init__(
        self,
        name: str,
        folder: Path,
        hub: RealHub,
        *,
        rate_hz: int = 800,
        state: Path | None = None,
        join_port: int | None = None,
        free_bytes_min: int = 1 << 20,
        is_hasty: bool = True,
        learning: str = "",
        more_toml: str = "",
    ) -> None:
        """Join.

        Args: see below.

        join_port: where the hub's HTTPS is reached, if not directly.
        is_hasty: it repeats itself sooner than the defaults have it, which a slow network pays for.
        learning: its [learning], as TOML; empty: it never learns.
        more_toml: more of its file; what begins with a sink belongs to its pipeline.
        """
        self.state = state or folder / name
        csv = folder / "tones.csv"
        if not csv.exists():
            rng = np.random.default_rng(1)
            rows = np.tile(templates().reshape(-1), ROWS // (3 * SAMPLES))
            rows = rows + rng.normal(0.0, 0.05, len(rows))
            csv.write_text("value\n" + "\n".join(f"{value:.5f}" for value in rows) + "\n")
        config = folder / f"{name}.toml"
        config.write_text(
            AGENT_TOML.format(
                csv=csv,
                rate_hz=rate_hz,
                samples=SAMPLES,
                free_bytes_min=free_bytes_min,
                patience=HASTY if is_hasty else "",
            )
            + more_toml
            + learning
        )
        token = hub.post("/tokens", {"name": name, "groups": ["bench"]})
        command = str(token["join_command"])
        if join_port is not None:
            command = command.replace(f":{hub.https_port}", f":{join_port}")
        self.device = self._join(command)
        run = [str(BIN / "edge-agent"), "run", "--config", str(config)]
        super().__init__(name, [*run, "--state", str(self.state)], folder)
        hub.agents.append(self)

    def _join(self, command: str) -> str:
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

    def reach_broker_at(self, port: int) -> None:
        """Let it reach the broker through another port of this machine from its next start on."""
        path = self.state / "identity" / "hub.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"broker_port": port}))

    def reach_hub_at(self, host: str) -> None:
        """Let it find what the hub listens on, but the broker, at another address of this machine.

        From its next start on. The hub's certificate must be good for it.
        """
        path = self.state / "identity" / "hub.json"
        record = json.loads(path.read_text())
        record["url"] = record["url"].replace("127.0.0.1", host)
        path.write_text(json.dumps(record))

    def status(self) -> dict[str, Any] | None:
        """Return what the running process last said of itself; None if nothing yet."""
        try:
            found: dict[str, Any] = json.loads((self.state / "run" / "status.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if self.is_running and found["pid"] == self.pid else None

    @property
    def is_connected(self) -> bool:
        """Whether it says that its link is up."""
        status = self.status()
        return status is not None and bool(status["is_connected"])

    def journal(self) -> Journal | None:
        """Return what the disk says of "tones"."""
        try:
            data = (self.state / "journal" / "tones.json").read_bytes()
        except OSError:
            return None
        return msgspec.json.decode(data, type=Journal)

    def fetched_bytes(self) -> int:
        """Return how much of an artifact that is being fetched lies on the disk."""
        found = self.state.glob("releases/tones/*/model.onnx.part")
        try:
            return sum(path.stat().st_size for path in found)
        except FileNotFoundError:  # It has just got its name.
            return 0


def _require_success(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise HubAnswerError(f"{answer.status_code}: {answer.text}")


def _padded(artifact: bytes, padding_bytes: int) -> bytes:
    """Return the model with weights that it does not use, and that do not compress."""
    if not padding_bytes:
        return artifact
    model = onnx.load_model_from_string(artifact)
    noise = np.random.default_rng(3).integers(0, 256, padding_bytes, dtype=np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(noise, "padding"))
    return bytes(model.SerializeToString())
