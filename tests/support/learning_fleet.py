"""A real hub and real agents that learn digits together, for tests of whole processes.

Networks are tiny and samples few: what is tested is who does what and when, not how well.
"""

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from tests.support.real_fleet import BIN, RealAgent, RealHub
from tests.support.waiting import wait_until

STEP_S = 60.0
MODEL = "digits"
GROUP = "bench"  # tests/support/real_fleet.py lets every agent join it
NODE, ZYGOTE = "edge_agent.training.flwr_node", "edge_agent.training.torch_zygote"
SUPERLINK, SERVER = "cloud_hub.training.flwr_superlink", "cloud_hub.training.flwr_server"
HELD = 400  # The last digits, on no device: they judge
SPEC = b"""
model = "digits"
task = "classification"
[input]
kind = "image"
width = 8
height = 8
colour = "gray"
mean = [60.0]
scale = [90.0]
[output]
decoder = "logits"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""
NETWORK = b"""
[architecture]
kind = "mlp"
hidden = [32]
"""
LEARNING = """
[learning]
load_max = 1000.0
temperature_c_max = 150.0
on_battery = true
on_metered = true
poll_s = 0.3
{more}
[[learning.samples]]
model = "{model}"
path = "{path}"
format = "npz"
"""
# A quick order; what a test needs otherwise it says.
ORDER: dict[str, Any] = {
    "model": MODEL,
    "group": GROUP,
    "rounds": 2,
    "method": {"epochs": 4, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9},
    "devices_min": 2,
    "deadline_s": 20.0,
    "gather_s": 60.0,
    "is_released": False,
}
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def digits_of(index: int, *, count: int) -> tuple[Images, Labels]:
    """Return one device's digits (n, 8, 8), gray, and their labels (n,); no other has any."""
    source = load_digits()
    chosen = slice(index, len(source.images) - HELD, count)
    return (source.images * 15.9).astype(np.uint8)[chosen], source.target.astype(np.int64)[chosen]


def samples_npz(images: Images, labels: Labels) -> bytes:
    """Return samples as the file that an owner writes."""
    buffer = io.BytesIO()
    np.savez(buffer, items=images, labels=labels)
    return buffer.getvalue()


def evaluation_npz() -> bytes:
    """Return what judges, in two slices by the digit."""
    source = load_digits()
    gray = (source.images * 15.9).astype(np.uint8)[-HELD:]
    labels = source.target.astype(np.int64)[-HELD:]
    buffer = io.BytesIO()
    slices = np.where(labels < 5, "low", "high")
    np.savez(buffer, items=np.repeat(gray[..., None], 3, axis=3), labels=labels, slices=slices)
    return buffer.getvalue()


def add_learner(
    hub: RealHub,
    folder: Path,
    name: str,
    samples: tuple[Images, Labels] | None,
    *,
    model: str = MODEL,
    more: str = "",
) -> RealAgent:
    """Return an agent with samples to learn from; it is not started yet.

    Args: samples: None: its owner says nothing of learning. more: lines of its [learning].
    """
    learning = ""
    if samples is not None:
        path = folder / f"{name}.npz"
        path.write_bytes(samples_npz(*samples))
        learning = LEARNING.format(more=more, model=model, path=path)
    return RealAgent(name, folder, hub, rate_hz=20, learning=learning)


def command(hub: RealHub, *arguments: str) -> Any:
    """Return what `cloud-hub` answers as JSON, run as a person does."""
    done = subprocess.run(
        [
            *(str(BIN / "cloud-hub"), *arguments, "--json"),
            *("--state", str(hub.state), "--hub", f"http://127.0.0.1:{hub.http_port}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


class LearningJob:
    """One Job of a real hub."""

    def __init__(self, hub: RealHub, job_id: str) -> None:
        self.hub = hub
        self.job_id = job_id

    @classmethod
    def start(cls, hub: RealHub, **order: Any) -> "LearningJob":
        """Start one; what is not said is as in ORDER."""
        return cls(hub, str(hub.post("/jobs", ORDER | order)["job_id"]))

    def get(self, part: str = "", **query: int) -> Any:
        return self.hub.get(f"/jobs/{self.job_id}{part}", **query)

    def events(self, code: str | None = None, *, number: int | None = None) -> list[dict[str, Any]]:
        """Return what happened (with this code, in this Round), oldest first."""
        return [
            event
            for event in self.get("/events")["events"]
            if code in (None, event["code"]) and number in (None, event["round"])
        ]

    def wait(self, condition: Callable[[], Any], *, seconds_max: float = STEP_S) -> Any:
        """Return the first true value of `condition`; a hub that is away is asked again."""

        def ask() -> Any:
            try:
                return condition()
            except httpx.TransportError:
                return None

        try:
            return wait_until(ask, seconds_max=seconds_max)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from error

    def wait_for(self, code: str, *, number: int | None = None, count: int = 1) -> None:
        """Wait until that has happened `count` times."""
        self.wait(lambda: len(self.events(code, number=number)) >= count)

    def wait_for_end(self, *, seconds_max: float = STEP_S) -> dict[str, Any]:
        """Return the Job once it is over, and the gate has judged what comes of it."""

        def ended() -> Any:
            job = self.get()
            is_judged = job["candidate_id"] or not job["order"].get("is_released", True)
            return job if job["state"] == "finished" and is_judged else None

        job: dict[str, Any] = self.wait(ended, seconds_max=seconds_max)
        return job

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return every device's part, by its id."""
        return {one["device_id"]: one for one in self.get("/devices")["devices"]}

    def counted(self, number: int) -> dict[str, dict[str, float]]:
        """Return the numbers of each update that counts on time in a Round, by device."""
        found = [
            event
            for event in self.events("update.accepted", number=number)
            if not event["numbers"]["rounds_late"]
        ]
        devices = [event["device"] for event in found]
        assert len(set(devices)) == len(devices), f"counted twice: {devices}\n{self.told()}"
        return {event["device"]: event["numbers"] for event in found}

    def told(self) -> str:
        """Return all that is known of it, for a test that fails."""
        folder = self.hub.state / "learning"
        logs = [folder / "jobs" / self.job_id / "server.log", self.hub.log]
        logs += [agent.log for agent in self.hub.agents]
        lines = [
            f"{e['number']} {e['code']} {e['round']} {e['device'] or ''} {e['text']}"
            for e in self.get("/events")["events"]
        ]
        lines += [f"{path.name}: {path.read_text()[-1200:]}" for path in logs if path.exists()]
        return "\n".join([str(self.get()), str(self.get("/devices")), *lines])


def processes(module: str, place: Path) -> list[int]:
    """Return the processes that run a module of ours on something under `place`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if module in arguments and any(part.startswith(f"{place}") for part in arguments):
            found.append(int(entry.name))
    return found


def parent_of(pid: int) -> int:
    """Return a process's parent; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def node_of(agent: RealAgent) -> int:
    """Return the agent's learning process; 0 if it has none."""
    return next(iter(processes(NODE, agent.state)), 0)


def training_of(agent: RealAgent) -> int:
    """Return the child that trains right now; 0 if none does."""
    zygotes = processes(ZYGOTE, agent.state)
    return next((pid for pid in zygotes if parent_of(pid) in zygotes), 0)


def superlink_of(hub: RealHub) -> int:
    return next(iter(processes(SUPERLINK, hub.state)), 0)


def server_of(hub: RealHub) -> int:
    return next(iter(processes(SERVER, hub.state)), 0)


def learners_left(agents: Iterable[RealAgent]) -> list[int]:
    """Return every process of learning that an agent has."""
    modules = (NODE, ZYGOTE)
    return [pid for agent in agents for one in modules for pid in processes(one, agent.state)]


def kill(pid: int) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)


class Frozen:
    """An agent whose learning process stands still: a Round stays open as long as one does."""

    def __init__(self, agent: RealAgent) -> None:
        self._pids = learners_left([agent])

    def __enter__(self) -> "Frozen":
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)


def require_gapless(events: Sequence[dict[str, Any]]) -> None:
    """Fail unless the events are numbered without a gap."""
    numbers = [event["number"] for event in events]
    assert numbers == list(range(1, len(numbers) + 1)), numbers


def peers_of(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Return (address, port) of all that these processes hold a TCP connection with.

    But each other and themselves: the MQTT client wakes its thread through a connection of its own.
    """
    inodes = {inode for pid in pids for inode in _sockets_of(pid)}
    near, far = set(), set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                near.add(_address(fields[1]))
                far.add(_address(fields[2]))
    return {(host, port) for host, port in far - near if port}


def _address(text: str) -> tuple[str, int]:
    """Return an address as /proc/net writes it; of IPv6 the IPv4 one that is mapped into it."""
    host, _, port = text.partition(":")
    return ".".join(str(byte) for byte in bytes.fromhex(host[-8:])[::-1]), int(port, 16)


def _sockets_of(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # It, or that descriptor of it, is gone
    return found
