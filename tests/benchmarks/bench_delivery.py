"""What a release costs: to judge, to sign, to bring to a device; and what asking for news costs.

Run: python -m tests.benchmarks.bench_delivery [--megabytes N] [--loss SHARE]
Prints one JSON line. The link is in memory, every message goes through the codec, and the device's
clock is turned by hand: figures are of our own code and the disk. A broker adds its own, and with
--loss the waiting for what was lost is not in `fetch_s`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from tests.support.release_hub import add, make_device, open_hub
from tests.support.repository_peer import RepositoryPeer

HIDDEN_PER_MEGABYTE = 3900  # The classifier has 67 float32 weights for each
REPEATS = 20
_IMPORT = """
import time
started_s = time.perf_counter()
import cloud_hub.releases.service, sys
pages = int(open("/proc/self/statm").read().split()[1])
print(time.perf_counter() - started_s, pages * 4096 / 2**20, "onnx" in sys.modules)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=10)
    parser.add_argument("--loss", type=float, default=0.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = Database(f"sqlite:///{folder}/hub.db")
        database.migrate()
        figures: dict[str, object] = {"bench": "delivery", **_bench_import()}
        started_s = time.perf_counter()
        hub = open_hub(folder, database)
        figures["first_start_ms"] = _since_ms(started_s)
        figures |= _bench_hub(hub)
        figures |= _bench_device(
            hub, folder, hidden=HIDDEN_PER_MEGABYTE * arguments.megabytes, loss=arguments.loss
        )
        database.close()
    print(json.dumps(figures))


def _bench_import() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, check=True)
    seconds, megabytes, has_onnx = done.stdout.split()
    return {
        "import_ms": round(float(seconds) * 1000),
        "import_rss_mb": round(float(megabytes)),
        "hub_imports_onnx": has_onnx == b"True",
    }


def _bench_hub(hub: ReleaseService) -> dict[str, object]:
    started_s = time.perf_counter()
    add(hub, seed=1)
    add_ms = _since_ms(started_s)
    numbers = iter(range(REPEATS))
    publish_ms = _median_ms(
        lambda: hub.repository.publish({f"releases/other/{next(numbers)}/a": b"x"}, custom={})
    )
    return {"add_small_ms": add_ms, "publish_ms": publish_ms}


def _bench_device(
    hub: ReleaseService, folder: Path, *, hidden: int, loss: float
) -> dict[str, object]:
    target = add(hub, seed=2, hidden=hidden)
    peer = RepositoryPeer(hub, loss=loss, duplicates=0.0)
    device = make_device(folder / "device", peer)
    started_s = time.perf_counter()
    fetched = device.fetch(target)
    fetch_s = time.perf_counter() - started_s
    metadata_bytes = peer.bytes_of("metadata/")
    before = device.transfer.bytes_received
    no_change_ms = _median_ms(lambda: device.fetch(target))
    return {
        "megabytes": round(fetched.variant.artifact.file_bytes / 2**20, 1),
        "first_update_metadata_bytes": metadata_bytes,
        "fetch_s": round(fetch_s, 2),
        "fetch_mb_per_s": round(device.transfer.bytes_received / 2**20 / fetch_s, 1),
        "no_change_bytes": (device.transfer.bytes_received - before) // REPEATS,
        "no_change_ms": no_change_ms,
    }


def _median_ms(act: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        act()
        times.append(_since_ms(started_s))
    return statistics.median(times)


def _since_ms(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 2)


if __name__ == "__main__":
    main()
