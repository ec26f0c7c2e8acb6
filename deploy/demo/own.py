"""make demo VIDEO=... MODEL=... SPEC=...: a person's own model on their own video, whole loop."""

import json
import shlex
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from deploy.demo.observer import Observer
from deploy.demo.processes import BIN, DemoError, join, start_hub
from deploy.demo.story import CAMERA, GROUP, Story

WATCH_ITEMS_MAX = 400
TRY_S_MAX = 300.0
LABELS_SHOWN_MAX = 5
WINDOWS_MAX = 500
TOML = """\
[telemetry]
window_s = 2.0

[[pipelines]]
name = "{camera}"
model = "{model}"

[pipelines.source]
kind = "video"
path = {video}
loop = true

[[pipelines.sinks]]
kind = "hub"
which = "all"
"""


def run_own(story: Story, video: Path, model: Path, spec: Path) -> dict[str, Any]:
    """Release the model, roll it out to one agent that watches the video; return figures."""
    teller = story.teller
    tried = _try_here(story, video, model, spec)
    story.api = start_hub(story.processes, story.folder / "hub", port=story.port)
    teller.say(f"The hub is up. Dashboard: {story.api.url}")
    teller.detail(f"Operator token to log in with: {story.operator_token()}")
    name = str(tomllib.loads(spec.read_text())["model"])
    release = story.api.add_release(_bundle(story.folder / "models" / name, model, spec))
    teller.say(
        f"Release {name}:{release['version']} ({', '.join(release['precisions'])}) passed the "
        "gate, signed."
    )
    _start_agent(story, name, video)
    rollout = story.start_rollout(name, release["version"], waves=["100%"])
    story.follow(rollout, until="done")
    watched = min(int(tried["items"]), WATCH_ITEMS_MAX)
    teller.say(f"It runs. Watching until {watched} frames are decided, at the video's own pace.")
    story.wait(lambda: story.observer.items_decided >= watched, f"{watched} decisions")
    story.observer.stop()
    figures = _figures(story)
    teller.say(
        f"{figures['fps']:.1f} frames a second, {figures['inference_ms_p50']:.1f} ms each; "
        f"found: {_told(figures['labels'])}."
    )
    return {
        "devices": 1,
        "items_decided": story.observer.items_decided,
        "items_dropped": story.observer.items_dropped,
        **figures,
        "receipts_verified": story.receipts_verified(),
        "snapshot": tried["snapshot"],
        "loop_seconds": round(time.monotonic() - teller.started_s, 1),
    }


def _try_here(story: Story, video: Path, model: Path, spec: Path) -> dict[str, Any]:
    """Try the model without a hub, as a person would first; return what the command says."""
    snapshot = story.folder / "seen.png"
    command = [
        *("edge-agent", "try", str(model), "--spec", str(spec), "--source", str(video)),
        *("--snapshot", str(snapshot)),
    ]
    story.teller.say("First without a hub:")
    story.teller.detail(shlex.join(command))
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:], "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TRY_S_MAX,
    )
    if done.returncode:
        raise DemoError(f"The model does not run here.\n{done.stderr.strip()}")
    tried: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if tried["items_failed"]:
        raise DemoError(
            f"It failed on {tried['items_failed']} of {tried['items']} frames; the first: "
            f"{tried['first_failure']}"
        )
    story.teller.detail(
        f"{tried['items']} frames, {tried['fps']:.0f} a second, {tried['inference_ms_p50']:.1f} ms "
        f"each, {tried['rss_mb_max']:.0f} MB; found: {_told(tried['labels'])}."
    )
    if tried["snapshot"]:
        story.teller.detail(f"The frame it is surest of: {snapshot}")
    return tried


def _bundle(folder: Path, model: Path, spec: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.read_bytes())
    (folder / "spec.toml").write_bytes(spec.read_bytes())
    return folder


def _start_agent(story: Story, model: str, video: Path) -> None:
    state = story.folder / "agents" / "own"
    story.devices["own"] = join(story.api, "own", state, groups=[GROUP])
    config = story.folder / "own.toml"
    # A JSON string is a TOML string too, whatever the path holds.
    path = json.dumps(str(video.resolve()), ensure_ascii=False)
    config.write_text(TOML.format(camera=CAMERA, model=model, video=path))
    agent = str(Path(sys.executable).parent / "edge-agent")
    story.processes.start("own", agent, "run", "--config", str(config), "--state", str(state))
    story.teller.say(f"An agent has joined ({story.devices['own']}); it watches the video.")
    story.observer = Observer(story.api, story.devices, CAMERA)
    story.observer.start()


def _figures(story: Story) -> dict[str, Any]:
    """Return what the hub was told about all the time that the agent watched."""
    device = story.devices["own"]
    windows = story.api.get(f"/devices/{device}/telemetry", limit=WINDOWS_MAX)["windows"]
    labels: Counter[str] = Counter()
    for window in windows:
        labels.update(window["labels"])
    return {
        "fps": round(
            sum(w["items_decided"] for w in windows) / sum(w["window_s"] for w in windows), 2
        ),
        "inference_ms_p50": round(
            sorted(w["inference_ms_p50"] for w in windows)[len(windows) // 2], 2
        ),
        "labels": dict(labels.most_common()),
    }


def _told(labels: dict[str, int]) -> str:
    shown = [f"{label} {count}" for label, count in list(labels.items())[:LABELS_SHOWN_MAX]]
    more = len(labels) - len(shown)
    return (", ".join(shown) or "nothing") + (f" and {more} other classes" if more else "")
