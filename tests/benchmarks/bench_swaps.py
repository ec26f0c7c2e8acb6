"""Hot swaps under load: what they lose, what they leave, what they cost. Prints one JSON line.

A pipeline decides as fast as it can, in lanes, by a worker process; two releases take turns through
the updater. The rules of measuring are in tests/support/swap_process.py, which runs in a process of
its own, so that nothing else is in its memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from shared.wire.target import TrialPolicy
from tests.support.tiny_releases import Kind, publish

SWAPS = 30
RSS_GROWTH_MAX = 0.10
SECONDS_A_SWAP_MAX = 20.0
DESCRIPTORS_SWAY = 3  # A recording opened anew may be seen or not; a leak is one a swap
POLICY = TrialPolicy(items_min=60, latency_ms_floor=1000.0)
NOTHING = (
    "items_failed",
    "items_dropped",
    "items_lost",
    "items_out_of_order",
    "threads_grown",
    "workers_left",
)


def measure(folder: Path, *, swaps: int = SWAPS, windows_per_s: float = 0.0) -> dict[str, Any]:
    """Return every figure, and whether all are within their limits."""
    store = folder / "store"
    releases = [
        publish(store, version=version, kind=kind, policy=POLICY)
        for version, kind in ((1, Kind.GOOD), (2, Kind.BETTER))
    ]
    named = store / "releases.json"
    named.write_bytes(msgspec.json.encode(releases))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.swap_process"),
            *(str(folder), str(named), str(swaps), str(windows_per_s)),
        ],
        capture_output=True,
        text=True,
        timeout=60.0 + swaps * SECONDS_A_SWAP_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr[-3000:])
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    is_within = (
        figures["swaps"] == swaps
        and figures["rss_growth"] <= RSS_GROWTH_MAX
        and figures["descriptors_grown"] <= DESCRIPTORS_SWAY
        and all(figures[name] <= 0 for name in NOTHING)
    )
    limits = {"rss_growth_limit": RSS_GROWTH_MAX, "lost_limit": 0, "left_limit": 0}
    return {**figures, **limits, "is_within": is_within}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=SWAPS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps({"bench": "swaps", **measure(Path(scratch), swaps=asked.swaps)}))
