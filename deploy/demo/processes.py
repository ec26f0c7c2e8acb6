"""The demo's processes: one hub and some agents, each with its own folder, as on real machines."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

STOP_S_MAX = 15.0
START_S_MAX = 60.0
BIN = Path(sys.executable).parent


class DemoError(Exception):
    """The demo cannot go on; the text says why, and where to look."""


@dataclass(slots=True)
class Processes:
    """Every process that the demo started."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to <folder>/<name>.log."""
        # One thread for every library: the machine's cores are shared by all of them.
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        self.running[name] = process
        return process

    def check(self) -> None:
        """Raise DemoError if one has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise DemoError(f"{name} ended ({process.returncode}); see {self.log(name)}")

    def log(self, name: str) -> Path:
        """Return where a process writes."""
        return self.folder / f"{name}.log"

    def stop(self) -> None:
        """End every process: agents first, the hub last."""
        names = sorted(self.running, key=lambda name: name == "hub")
        for name in names:
            self.running[name].terminate()
        for name in names:
            try:
                self.running[name].wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.running[name].kill()
                self.running[name].wait()


class HubApi:
    """The admin API of the demo's hub."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60.0
        )

    def get(self, path: str, **params: str | int) -> Any:  # noqa: ANN401  (JSON)
        """Return what the API answers. Raises DemoError with the hub's own words."""
        return self._answer(self._http.get(f"/api/v1{path}", params=params))

    def post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401  (JSON)
        """Return what the API answers. Raises DemoError with the hub's own words."""
        return self._answer(self._http.post(f"/api/v1{path}", json=body))

    def add_release(self, folder: Path) -> dict[str, Any]:
        """Register, check and publish what is in `folder`; return the release."""
        names = (("model", "model.onnx"), ("spec", "spec.toml"), ("golden", "golden.npz"))
        files = {
            field_name: (name, (folder / name).read_bytes())
            for field_name, name in names
            if (folder / name).exists()
        }
        metrics = folder / "metrics.json"
        data = {"metrics": metrics.read_text() if metrics.exists() else "{}"}
        answer: dict[str, Any] = self._answer(
            self._http.post("/api/v1/releases", files=files, data=data)
        )
        return answer

    def add_checkpoint(self, folder: Path) -> str:
        """Add a network with its weights; return the checkpoint's id."""
        names = (("spec", "spec.toml"), ("network", "network.toml"), ("weights", "weights.npz"))
        files = {field_name: (name, (folder / name).read_bytes()) for field_name, name in names}
        answer = self._answer(self._http.post("/api/v1/checkpoints", files=files))
        return str(answer["checkpoint_id"])

    def put_evaluation_set(self, model: str, path: Path) -> None:
        """Give the gate what it judges a model by from now on."""
        self._answer(
            self._http.put(f"/api/v1/models/{model}/evaluation-set", content=path.read_bytes())
        )

    @staticmethod
    def _answer(response: httpx.Response) -> Any:  # noqa: ANN401  (JSON)
        body = response.json()
        if response.is_error:
            raise DemoError(f"The hub said: {body.get('message')} {body.get('remedy', '')}")
        return body


def start_hub(processes: Processes, state: Path, *, port: int | None) -> HubApi:
    """Start a hub on this machine only; return its API once it answers."""
    process = processes.start(
        "hub",
        *(str(BIN / "cloud-hub"), "serve", "--json", "--no-discovery"),
        *("--state", str(state), "--host-name", "127.0.0.1"),
        *("--http", f"127.0.0.1:{free_port() if port is None else port}"),
        *("--https", f"127.0.0.1:{free_port()}", "--mqtt", f"127.0.0.1:{free_port()}"),
        *("--learning", f"127.0.0.1:{free_port()}"),
    )
    log = processes.log("hub")
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and "operator_token" in line:
                greeting = json.loads(line)
                return HubApi(greeting["dashboard_url"], greeting["operator_token"])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise DemoError(f"The hub did not start; see {log}\n{log.read_text()[-2000:]}")


def join(api: HubApi, name: str, state: Path, *, groups: list[str]) -> str:
    """Join one device by the very command that an operator is given; return its id."""
    token = api.post("/tokens", {"name": name, "groups": groups})
    program, *arguments = token["join_command"].split()
    assert program == "edge-agent"
    done = subprocess.run(
        [str(BIN / program), *arguments, "--state", str(state), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoError(f"{name} could not join: {done.stderr}")
    return str(json.loads(done.stdout.splitlines()[-1])["device_id"])


def free_port() -> int:
    """Return a TCP port that nothing uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
