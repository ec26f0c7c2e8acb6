"""A hub's start and its memory: from `cloud-hub serve` until it answers, and what it holds then.

Each start is a process of its own, measured from before it is made: the first ones on an empty
folder (keys, certificates, database, signed repository), the others on what the first left. Memory
is the peak (VmHWM, MB of 10^6 bytes) when it answers, and after every page and list was asked for.

Prints one JSON line; ends with 1 if a limit is broken.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

STARTS = 5
START_S_LIMIT = 3.0
RSS_MB_LIMIT = 200.0
ASKED = (
    "/",
    "/releases",
    "/rollouts",
    "/enrol",
    "/audit",
    "/health",
    "/metrics",
    "/api/v1/devices",
    "/api/v1/releases",
    "/api/v1/models",
    "/api/v1/rollouts",
    "/api/v1/audit",
    "/api/v1/tokens",
    "/api/v1/openapi.json",
)
ROUNDS = 10
BIN = Path(sys.executable).parent
OPTIONS = ("--no-discovery", "--json", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")


def measure_start(state: Path) -> dict[str, float]:
    """Return how long a start took, until it stopped, and the memory in between."""
    command = [BIN / "cloud-hub", "serve", *OPTIONS, "--mqtt", "127.0.0.1:0", "--state", state]
    started_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["dashboard_url"]
        start_s = time.monotonic() - started_s
        at_start_mb = rss_mb_max(process.pid)
        ask_for_everything(url, (state / "run" / "local-token").read_text().strip())
        asked_mb = rss_mb_max(process.pid)
        stopping_s = time.monotonic()
        process.terminate()
        assert process.wait(30) == 0
        stop_s = time.monotonic() - stopping_s
    finally:
        process.kill()
        process.communicate()
    return {"start_s": start_s, "start_mb": at_start_mb, "asked_mb": asked_mb, "stop_s": stop_s}


def ask_for_everything(url: str, token: str) -> None:
    """Open every page and list a few times."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30.0) as client:
        client.post("/login", data={"token": token})
        for _ in range(ROUNDS):
            for path in ASKED:
                assert client.get(path).status_code == 200, path


def rss_mb_max(pid: int) -> float:
    """Return the most memory that a process has held, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def main() -> int:
    """Measure, print, and say by the exit code whether the limits hold."""
    with tempfile.TemporaryDirectory() as folder:
        first = [measure_start(Path(folder) / f"hub-{n}") for n in range(STARTS)]
        again = [measure_start(Path(folder) / "hub-0") for _ in range(STARTS)]
    figures = {
        "first_start_s": statistics.median(run["start_s"] for run in first),
        "first_start_s_max": max(run["start_s"] for run in first),
        "later_start_s": statistics.median(run["start_s"] for run in again),
        "later_start_s_max": max(run["start_s"] for run in again),
        "rss_mb_at_start": max(run["start_mb"] for run in (*first, *again)),
        "rss_mb_max": max(run["asked_mb"] for run in (*first, *again)),
        "stop_s": statistics.median(run["stop_s"] for run in (*first, *again)),
    }
    limits = {"start_s_limit": START_S_LIMIT, "rss_mb_limit": RSS_MB_LIMIT}
    rounded = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps({"bench": "hub_start", **rounded, **limits}))
    slowest_s = max(figures["first_start_s_max"], figures["later_start_s_max"])
    return int(slowest_s > START_S_LIMIT or figures["rss_mb_max"] > RSS_MB_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
