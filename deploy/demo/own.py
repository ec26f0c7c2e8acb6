"""make demo VIDEO=... MODEL=... SPEC=...: a person's own model on their own video, whole loop."""

import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from deploy.demo.observer import Observer
from deploy.demo.processes import join, start_hub
from deploy.demo.story import CAMERA, GROUP, Story

ITEMS_MIN = 50
TOML = """\
[telemetry]
window_s = 2.0

[[pipelines]]
name = "{camera}"
model = "{model}"

[pipelines.source]
kind = "video"
path = "{video}"
loop = true

[[pipelines.sinks]]
kind = "hub"
which = "all"
"""


def run_own(story: Story, video: Path, model: Path, spec: Path) -> dict[str, Any]:
    """Release the model, roll it out to one agent that watches the video; return figures."""
    teller = story.teller
    story.api = start_hub(story.processes, story.folder / "hub", port=story.port)
    teller.say(f"The hub is up. Dashboard: {story.api.url}")
    teller.detail(f"Operator token to log in with: {story.operator_token()}")
    name = str(tomllib.loads(spec.read_text())["model"])
    bundle = story.folder / "models" / name
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(model.read_bytes())
    (bundle / "spec.toml").write_bytes(spec.read_bytes())
    release = story.api.add_release(bundle)
    teller.say(f"{name}:{release['version']} ({', '.join(release['precisions'])}) passed the gate.")
    state = story.folder / "agents" / "own"
    story.devices["own"] = join(story.api, "own", state, groups=[GROUP])
    config = story.folder / "own.toml"
    config.write_text(TOML.format(camera=CAMERA, model=name, video=video.resolve()))
    story.processes.start(
        "own",
        *(str(Path(sys.executable).parent / "edge-agent"), "run"),
        *("--config", str(config), "--state", str(state)),
    )
    story.observer = Observer(story.api, story.devices, CAMERA)
    story.observer.start()
    rollout = story.start_rollout(name, release["version"], waves=["100%"])
    story.follow(rollout, until="done")
    story.wait(lambda: story.observer.items_decided >= ITEMS_MIN, f"{ITEMS_MIN} decisions")
    story.observer.stop()
    window = story.api.get(f"/devices/{story.devices['own']}/telemetry", limit=1)["windows"][0]
    teller.say(
        f"{window['items_decided'] / window['window_s']:.1f} frames a second, "
        f"{window['inference_ms_p50']:.1f} ms each; seen: {window['labels']}"
    )
    return {
        "devices": 1,
        "items_decided": story.observer.items_decided,
        "inference_ms_p50": round(window["inference_ms_p50"], 2),
        "labels": window["labels"],
        "receipts_verified": story.receipts_verified(),
        "loop_seconds": round(time.monotonic() - teller.started_s, 1),
    }
