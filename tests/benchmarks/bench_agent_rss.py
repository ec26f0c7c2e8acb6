"""Memory of a whole agent: FastestDet int8 on a real video, joined to a real hub, for a minute.

The process is `edge-agent run`: its release comes over MQTT, is verified, proved and tried, and its
telemetry goes out. Then a second release (fp32) is swapped in, and the first one back: the peak
until there is told apart. Frames come as fast as they are taken (`--realtime`: as a camera would),
which is the harder case: the queue of frames is always full.

Prints one JSON line: VmHWM in MB of 10^6 bytes, after 60 s of video and after the swaps.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.benchmarks.bench_infer_rss import FORBIDDEN, RSS_MB_MAX, make_int8
from tests.support.real_fleet import RealHub
from tests.support.requirements import require_data
from tests.support.video_agent import VideoAgent, add_detector
from tests.support.waiting import wait_until

VIDEO_FPS = 12.5
VIDEO_S_MIN = 60.0
FRAMES_MIN = round(VIDEO_FPS * VIDEO_S_MIN)


def measure(folder: Path, *, pace: str = "asfast", with_swaps: bool = True) -> dict[str, object]:
    """Return what an agent used and did."""
    video, int8 = require_data("data/video/car-detection.mp4"), make_int8(folder)
    hub = RealHub(folder)
    try:
        hub.start()
        agent = VideoAgent(folder, hub, video, pace=pace)
        agent.start()
        try:
            return _measure(agent, int8, with_swaps=with_swaps)
        finally:
            if agent.is_running:
                agent.kill()
    finally:
        hub.close()


def _measure(agent: VideoAgent, int8: Path, *, with_swaps: bool) -> dict[str, object]:
    version = int(add_detector(agent.hub, int8)["version"])
    agent.bring(version)
    watch(agent, FRAMES_MIN)
    memory = agent.memory()
    figures: dict[str, object] = {
        "rss_mb_max": memory.peak_mb,
        "rss_mb": memory.now_mb,
        "frames_decided": agent.decided(),
    }
    if with_swaps:
        figures |= swap(agent, version)
    windows = agent.windows()
    figures["inference_ms_p50"] = round(windows[0]["inference_ms_p50"], 2)
    figures["items_dropped"] = sum(window["items_dropped"] for window in windows)
    figures["receipts"] = len(agent.receipts())
    return {**figures, "forbidden_loaded": sorted(agent.end() & set(FORBIDDEN))}


def swap(agent: VideoAgent, version: int) -> dict[str, object]:
    """Swap to fp32, and back; return what that took."""
    fp32 = add_detector(agent.hub, require_data("models/FastestDet.onnx"))
    agent.bring(int(fp32["version"]))
    watch(agent, agent.decided() + 100)
    first_mb = agent.memory().peak_mb
    agent.bring(version)
    watch(agent, agent.decided() + 100)
    memory = agent.memory()
    pauses = [window["swap_pause_ms_max"] for window in agent.windows()]
    return {
        "rss_mb_max_with_a_swap": first_mb,
        "rss_mb_max_with_two_swaps": memory.peak_mb,
        "rss_mb_after_swaps": memory.now_mb,
        "swap_pause_ms_max": round(max(pauses), 1),
    }


def watch(agent: VideoAgent, frames: int) -> None:
    """Return once the hub knows of `frames` decided frames."""

    def is_reached() -> bool:
        agent.check()
        return agent.decided() >= frames

    wait_until(is_reached, seconds_max=120.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--realtime", action="store_true", help="at the video's own pace")
    pace = "realtime" if parser.parse_args().realtime else "asfast"
    with tempfile.TemporaryDirectory() as name:
        measured = measure(Path(name), pace=pace)
    print(json.dumps({"bench": "agent_rss", "pace": pace, "rss_mb_limit": RSS_MB_MAX, **measured}))
