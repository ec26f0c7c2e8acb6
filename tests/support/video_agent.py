"""One real agent that watches a real video, joined to a real hub: what it uses, what it decides.

The process is `edge-agent run` itself, in an environment as on a device: optional libraries that a
development machine has would be loaded too. A few lines of Python around it say at its end which
modules were loaded.
"""

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.edge_environment import make_edge_python
from tests.support.real_fleet import BIN, Process, RealHub
from tests.support.waiting import wait_until

SPEC = Path(__file__).parents[2] / "deploy" / "examples" / "fastestdet.toml"
MODEL = "fastestdet"
PIPELINE = "street"
ROLLOUT_S_MAX = 90.0
MODULES = "loaded modules: "
RUN = f"""
import sys
from edge_agent.__main__ import main
code = main(sys.argv[1:])
print({MODULES!r} + ",".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
sys.exit(code)
"""
TOML = """\
[telemetry]
window_s = 1.0
host_s = 2.0

[[pipelines]]
name = "street"
model = "fastestdet"

[pipelines.source]
kind = "video"
path = "{video}"
pace = "{pace}"
loop = true

[[pipelines.sinks]]
kind = "hub"
which = "{which}"
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process, in MB of 10^6 bytes."""

    peak_mb: float  # VmHWM
    now_mb: float


class VideoAgent(Process):
    """`edge-agent run` on one pipeline over a video, played again and again."""

    def __init__(
        self,
        folder: Path,
        hub: RealHub,
        video: Path,
        *,
        pace: str = "asfast",
        which: str = "changes",
        more_toml: str = "",
    ) -> None:
        """Join it; nothing runs yet. Args: `more_toml` is appended to its configuration."""
        self.hub = hub
        self.state = folder / "watcher"
        config = folder / "watcher.toml"
        config.write_text(TOML.format(video=video, pace=pace, which=which) + more_toml)
        self.device = self._join()
        python = str(make_edge_python(folder / "edge-environment"))
        command = [python, "-I", "-c", RUN, "run", "--config", str(config)]
        super().__init__("watcher", [*command, "--state", str(self.state)], folder)

    def _join(self) -> str:
        words = shlex.split(self.hub.post("/tokens", {"name": "watcher"})["join_command"])
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:], "--state", str(self.state), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout.splitlines()[-1])["device_id"])

    def memory(self) -> Memory:
        """Return what it uses, and the most that it ever used."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return Memory(_megabytes(status, "VmHWM:"), _megabytes(status, "VmRSS:"))

    def bring(self, version: int, *, until: str = "done", **trial: float) -> None:
        """Roll a release out to this device; return when the rollout is in the state `until`.

        Args: `trial` is what differs from the default policy.
        """
        order = {
            "model": MODEL,
            "version": version,
            "devices": [self.device],
            "waves": ["100%"],
            "wave_deadline_s": ROLLOUT_S_MAX,
            "bake_s": 0.5,
            "bake_items_min": 0,
            "trial": {"items_min": 40, "deadline_s": 60.0, **trial},
        }
        rollout = str(self.hub.post("/rollouts", order)["rollout"]["rollout_id"])

        def is_over() -> bool:
            self.check()
            state = self.hub.rollout_state(rollout)
            if state in {"done", "undone", "held", "cancelled"} and state != until:
                entries = self.hub.get(f"/rollouts/{rollout}/timeline")["entries"]
                raise AssertionError("\n".join(entry["text"] for entry in entries))
            return state == until

        wait_until(is_over, seconds_max=ROLLOUT_S_MAX)

    def status(self) -> dict[str, Any]:
        """Return what `edge-agent status` says of each pipeline, by name."""
        done = subprocess.run(
            [str(BIN / "edge-agent"), "status", "--json", "--state", str(self.state)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        pipelines = json.loads(done.stdout.splitlines()[-1])["report"]["pipelines"]
        return {pipeline["pipeline"]: pipeline for pipeline in pipelines}

    def events(self) -> list[dict[str, Any]]:
        """Return the events that the hub has of it."""
        found: list[dict[str, Any]] = self.hub.get(f"/devices/{self.device}/events")["events"]
        return found

    def windows(self) -> list[dict[str, Any]]:
        """Return the newest telemetry windows that the hub has, newest first."""
        found: list[dict[str, Any]] = self.hub.get(
            f"/devices/{self.device}/telemetry", pipeline=PIPELINE, limit=500
        )["windows"]
        return found

    def decided(self) -> int:
        """Return how many frames the hub knows to be decided."""
        return sum(window["items_decided"] for window in self.windows())

    def receipts(self) -> list[dict[str, Any]]:
        """Return what it has proved, as the hub has verified it."""
        found: list[dict[str, Any]] = self.hub.get(f"/devices/{self.device}/receipts")["receipts"]
        return found

    def end(self) -> set[str]:
        """Ask it to end; return the names of the packages that were loaded in it."""
        code = self.stop()
        text = self.log.read_text()
        assert code == 0, text[-3000:]
        (line,) = [line for line in text.splitlines() if line.startswith(MODULES)]
        return set(line.removeprefix(MODULES).split(","))


def add_detector(hub: RealHub, model: Path) -> dict[str, Any]:
    """Upload a form of FastestDet; return the release."""
    files = {
        "model": ("model.onnx", model.read_bytes()),
        "spec": ("spec.toml", SPEC.read_bytes()),
    }
    answer = hub._http.post("/api/v1/releases", files=files, timeout=120.0)
    assert answer.is_success, answer.text
    release: dict[str, Any] = answer.json()
    return release


def _megabytes(status: str, field: str) -> float:
    return round(int(status.split(field)[1].split()[0]) * 1024 / 1e6, 1)
