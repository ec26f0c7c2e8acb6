"""The demo's story: see, release, roll out, take back; on real parts, told step by step."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo import bearing, lens
from deploy.demo.learning import Learned, learn_together
from deploy.demo.observer import Observer
from deploy.demo.processes import DemoError, HubApi, Processes, join, start_hub

CAMERA = "camera"
FPS = 12.0
WATCH_ITEMS = 60  # Decisions of each camera by which a release's accuracy is told
STEP_S_MAX = 120.0
GROUP = "demo"
# Small fleets and short stories: fewer items and shorter times than the careful defaults.
TRIAL = {"items_min": 40, "deadline_s": 60.0, "confidence_drop_max": 0.2}
QUICK = {"wave_deadline_s": 90.0, "bake_s": 1.0, "bake_items_min": 0, "trial": TRIAL}

AGENT_TOML = """\
[telemetry]
window_s = 2.0
host_s = 5.0

[updates]
poll_s = 0.1

[learning]  # What this device's owner allows: to learn from these pictures, which never leave it
load_max = 100.0  # Everything runs on one machine here
temperature_c_max = 150.0
on_battery = true
on_metered = true
poll_s = 0.2

[[learning.samples]]
model = "digits"
path = "{samples}"
format = "npz"

[[pipelines]]
name = "{camera}"
model = "digits"

[pipelines.source]  # Replays frames at a camera's pace. Every one counts: none is lost unseen.
kind = "folder"
path = "{frames}"
fps = {fps}
loop = true
delivery = "every"

[[pipelines.sinks]]
kind = "hub"
which = "all"
"""
SENSOR_TOML = """
[[pipelines]]
name = "vibration"
model = "bearing"

[pipelines.source]
kind = "csv"
path = "{csv}"
columns = ["acceleration_g"]
rate_hz = {rate_hz}
loop = true

[pipelines.source.window]
samples = {samples}
step = {samples}

[[pipelines.sinks]]
kind = "hub"
which = "changes"
"""


@dataclass(slots=True)
class Teller:
    """Says what happens, in plain words, with the time since the start."""

    started_s: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.monotonic() - self.started_s:5.1f} s] {text}", flush=True)

    def detail(self, text: str) -> None:
        """Print one line that belongs to the one before."""
        print(f"          {text}", flush=True)


@dataclass(slots=True)
class Story:
    """One run of the demo."""

    folder: Path
    teller: Teller
    port: int | None
    processes: Processes = field(init=False)
    api: HubApi = field(init=False)
    observer: Observer = field(init=False)
    devices: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.processes = Processes(self.folder / "logs")
        (self.folder / "logs").mkdir(parents=True)

    def run(self) -> dict[str, Any]:
        """Tell it; return its figures."""
        models = self.folder / "models"
        trainer = self._start_training(models)
        self._start_hub()
        labels = self._make_cameras()
        self._join_agents()
        self._wait_for_training(trainer)
        setup_s = time.monotonic() - self.teller.started_s

        self.observer = Observer(self.api, self.devices, CAMERA, labels)
        self.observer.start()
        self._release_one(models)
        first = self._watch(1)
        dropout = lens.LENSES[1].name
        learned = learn_together(self, group=GROUP, dropout=dropout)
        self._release_two(learned)
        second = self._watch(learned.version)
        undone, undo_s = self._release_three(models, good=learned.version)
        self.observer.stop()
        return {
            "devices": len(self.devices),
            "items_decided": self.observer.items_decided,
            "items_dropped": self.observer.items_dropped,
            "swaps": self.observer.swaps_count(),
            "items_lost_in_swaps": self.observer.items_lost_in_swaps(),
            "swap_pause_ms_max": round(self.observer.swap_pause_ms_max, 1),
            "accuracy_release_1": round(first, 4),
            "accuracy_release_2": round(second, 4),
            "federated_rounds": learned.rounds,
            "accuracy_per_device_before": learned.before,
            "accuracy_per_device_after": learned.after,
            "dropout_survived": learned.dropout_survived,
            "bytes_per_round": learned.bytes_per_round,
            "candidate_verdict": learned.verdict,
            "anomalies_found": self._anomalies(),
            "receipts_verified": self.receipts_verified(),
            "bad_release_undone": undone,
            "undo_seconds": round(undo_s, 2),
            "setup_seconds": round(setup_s, 1),
            "loop_seconds": round(time.monotonic() - self.teller.started_s, 1),
        }

    # Setting up

    def _start_training(self, models: Path) -> "subprocess.Popen[bytes]":
        self.teller.say("Training: digits, and a bearing watcher, in a process of its own.")
        models.mkdir(parents=True)
        return self.processes.start(
            "training", sys.executable, "-m", "deploy.demo.train", str(models)
        )

    def _start_hub(self) -> None:
        self.api = start_hub(self.processes, self.folder / "hub", port=self.port)
        self.teller.say(f"The hub is up. Dashboard: {self.api.url}")
        self.teller.detail(f"Operator token to log in with: {self.operator_token()}")

    def _make_cameras(self) -> lens.Labels:
        _, _, scans, labels = lens.load_scans()
        for index, view in enumerate(lens.LENSES):
            lens.write_camera_folder(
                self.folder / "cameras" / view.name, lens.see(scans, view, seed=50 + index)
            )
        healthy = bearing.vibration(8, defect_g=0.0, seed=11)
        faulty = bearing.vibration(6, defect_g=0.8, seed=12)
        bearing.write_csv(self.folder / "bearing.csv", bearing.join(healthy, faulty))
        return labels

    def _join_agents(self) -> None:
        for view in lens.LENSES:
            state = self.folder / "agents" / view.name
            self.devices[view.name] = join(self.api, view.name, state, groups=[GROUP])
            config = self.folder / f"{view.name}.toml"
            text = AGENT_TOML.format(
                camera=CAMERA,
                frames=self.folder / "cameras" / view.name,
                fps=FPS,
                samples=self.folder / "models" / "samples" / f"{view.name}.npz",
            )
            if view is lens.LENSES[-1]:
                text += SENSOR_TOML.format(
                    csv=self.folder / "bearing.csv",
                    rate_hz=bearing.RATE_HZ,
                    samples=bearing.WINDOW,
                )
            config.write_text(text)
            self.start_agent(view.name)
        names = ", ".join(f"{name} ({device})" for name, device in self.devices.items())
        self.teller.say(f"Three agents have joined, each with a key of its own: {names}.")

    def start_agent(self, name: str) -> None:
        """Start an agent that has joined."""
        self.processes.start(
            name,
            *(str(Path(sys.executable).parent / "edge-agent"), "run"),
            *("--config", str(self.folder / f"{name}.toml")),
            *("--state", str(self.folder / "agents" / name)),
        )

    def kill_agent(self, name: str) -> None:
        """End an agent as a power cut does."""
        agent = self.processes.running.pop(name)
        agent.kill()
        agent.wait()

    def _wait_for_training(self, trainer: "subprocess.Popen[bytes]") -> None:
        try:
            code = trainer.wait(STEP_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"Training took over {STEP_S_MAX:.0f} s on this machine.") from error
        log = self.processes.log("training")
        if code:
            raise DemoError(f"Training failed:\n{log.read_text()[-2000:]}")
        del self.processes.running["training"]
        self.teller.say("Trained.")

    # The loop

    def _release_one(self, models: Path) -> None:
        self.api.put_evaluation_set("digits", models / "evaluation-lenses.npz")
        checkpoint = self.api.add_checkpoint(models / "digits")
        digits = self.api.post(f"/checkpoints/{checkpoint}/release", {})
        watcher = self.api.add_release(models / "bearing-first")
        self.teller.say(
            f"Release digits:{digits['version']} ({', '.join(digits['precisions'])}) and "
            f"bearing:{watcher['version']} passed the gate, signed. Rolling out to everyone."
        )
        sensor = self.devices[lens.LENSES[-1].name]
        rollouts = [
            self.start_rollout("digits", 1, waves=["100%"]),
            self.start_rollout("bearing", 1, waves=["100%"], devices=[sensor]),
        ]
        for rollout in rollouts:
            self.follow(rollout, until="done")

    def _release_two(self, learned: Learned) -> None:
        self.teller.say(
            f"Release digits:{learned.version}, made by all of them: one device first, then all, "
            "while the agents keep deciding."
        )
        rollout = self.start_rollout("digits", learned.version, waves=["1", "100%"])
        self.follow(rollout, until="done")

    def _release_three(self, models: Path, *, good: int) -> tuple[bool, float]:
        # The gate knows what it is shown: by pictures from the desk nothing is wrong with this one.
        self.api.put_evaluation_set("digits", models / "evaluation-desk.npz")
        release = self.api.add_release(models / "digits-damaged")
        self.teller.say(
            f"Release digits:{release['version']}: labels were mixed up, and the evaluation set "
            "shows pictures from a desk only. It passed the gate. Rolling out."
        )
        rollout = self.start_rollout("digits", release["version"], waves=["1", "100%"])
        began_s = time.monotonic()
        self.follow(rollout, until="undone")
        undo_s = time.monotonic() - began_s
        self.wait(
            lambda: set(self.observer.newest_versions()) == {good},
            f"every camera to be decided by release {good} again",
        )
        running = [
            model["version"]
            for device in self.devices.values()
            for model in self.api.get(f"/devices/{device}/models")["models"]
            if model["model"] == "digits"
        ]
        is_undone = running == [good] * len(self.devices)
        self.teller.say(f"Taken back by itself; the devices run digits:{running}.")
        return is_undone, undo_s

    def start_rollout(
        self, model: str, version: int, *, waves: list[str], devices: list[str] | None = None
    ) -> str:
        """Start a rollout to the group, or to some devices; return its id."""
        chosen: dict[str, Any] = {"devices": devices} if devices else {"group": GROUP}
        body = {"model": model, "version": version, "waves": waves, **chosen, **QUICK}
        return str(self.api.post("/rollouts", body)["rollout"]["rollout_id"])

    def follow(self, rollout: str, *, until: str) -> None:
        """Tell a rollout's timeline as it goes, until it is in the state `until`."""
        told = 0

        def is_over() -> bool:
            nonlocal told
            entries = self.api.get(f"/rollouts/{rollout}/timeline")["entries"]
            for entry in entries[told:]:
                self.teller.detail(self._told(entry))
            told = len(entries)
            state = self.api.get(f"/rollouts/{rollout}")["rollout"]["state"]
            if state in ("done", "undone", "held", "cancelled") and state != until:
                raise DemoError(f"The rollout is {state}, not {until}: cloud-hub why {rollout}")
            return bool(state == until)

        self.wait(is_over, f"rollout {rollout} to be {until}")

    def _watch(self, version: int) -> float:
        """Wait until every camera has decided enough with a release; return its accuracy."""
        self.wait(
            lambda: self.observer.decided_by(version) >= WATCH_ITEMS,
            f"{WATCH_ITEMS} decisions of each camera by release {version}",
        )
        accuracy = self.observer.accuracy(version)
        self.teller.say(f"Release {version} names {accuracy:.1%} of what the cameras see rightly.")
        return accuracy

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition`, while every process lives. Raises DemoError."""
        deadline = time.monotonic() + STEP_S_MAX
        while not condition():
            self.processes.check()
            if time.monotonic() > deadline:
                raise DemoError(f"Waited {STEP_S_MAX:.0f} s for {what}; logs: {self.folder}/logs")
            time.sleep(0.2)

    def _told(self, entry: dict[str, Any]) -> str:
        names = {device: name for name, device in self.devices.items()}
        device = entry["device_id"]
        return f"{names.get(device, device)}: {entry['text']}" if device else str(entry["text"])

    # Figures

    def operator_token(self) -> str:
        """Return what the hub printed at its first start."""
        lines = self.processes.log("hub").read_text().splitlines()
        greeting = next(line for line in lines if "operator_token" in line)
        return str(json.loads(greeting)["operator_token"])

    def receipts_verified(self) -> int:
        """Return how many receipts the hub has verified."""
        return sum(
            len(self.api.get(f"/devices/{device}/receipts")["receipts"])
            for device in self.devices.values()
        )

    def _anomalies(self) -> int:
        sensor = self.devices[lens.LENSES[-1].name]
        windows = self.api.get(f"/devices/{sensor}/telemetry", pipeline="vibration", limit=500)
        return sum(window["labels"].get("anomalous", 0) for window in windows["windows"])
