"""Many swaps in a process of its own, and what they left behind. Prints one JSON line.

1. Two releases take turns, each through the whole of an update: fetched, measured, proved, on
   trial, settled; every pipeline item is decided by one of them meanwhile.
2. RSS is of this process and its workers together, when an update has settled and one worker is
   left, after this process handed back what it does not use, as the agent does in its quiet
   moments. The first WARM_SWAPS are not measured: both releases have been there, and what only the
   first updates take has been taken. The growth is the median of the last MEDIAN_OF measures over
   that of the first.
3. Descriptors and threads are counted there too, each by its least over LOOK_S: what an update let
   go of is closed a moment later, and the recording is opened anew at its end. Their growth is
   between the least of the first MEDIAN_OF and of the last.

    python -m tests.support.swap_process FOLDER RELEASES.json SWAPS [WINDOWS_PER_S]
"""

import gc
import json
import statistics
import sys
import threading
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path

import msgspec
import psutil

from edge_agent.inference.procfs_memory import hand_back_memory, limit_arenas, pad_heap
from shared.wire.target import TargetRelease
from tests.support.busy_device import CLOCK, BusyDevice, worker_pids
from tests.support.waiting import wait_until

WARM_SWAPS = 4
MEDIAN_OF = 3
LOOK_S, LOOKS = 0.5, 20
ITEMS_BETWEEN = 200


@dataclass(frozen=True, slots=True)
class Rest:
    """How the process stands between two updates."""

    rss_mb: float
    descriptors: int
    threads: int
    workers: int


def measure() -> Rest:
    """Return how this process and its workers stand, once one worker is left."""
    gc.collect()
    hand_back_memory()
    wait_until(lambda: len(worker_pids()) == 1)
    me, never = psutil.Process(), threading.Event()
    looks = []
    for _ in range(LOOKS):
        looks.append((me.num_fds(), threading.active_count()))
        CLOCK.wait(never, LOOK_S / LOOKS)
    processes = [me, *(psutil.Process(pid) for pid in worker_pids())]
    return Rest(
        rss_mb=sum(process.memory_info().rss for process in processes) / 1e6,
        descriptors=min(descriptors for descriptors, _ in looks),
        threads=min(threads for _, threads in looks),
        workers=len(processes) - 1,
    )


def run_swaps(
    folder: Path, store: Path, releases: list[TargetRelease], swaps: int, rate: float
) -> dict[str, object]:
    """Return what `swaps` measured swaps came to."""
    rests = []
    with BusyDevice(folder, store, windows_per_s=rate) as device:
        for number in range(1 + WARM_SWAPS + swaps):  # The first one swaps nothing out
            release = releases[number % len(releases)]
            device.bring(msgspec.structs.replace(release, rollout=f"roll-{number}"))
            device.decide(ITEMS_BETWEEN)
            if number >= WARM_SWAPS:
                rests.append(measure())
        numbers = device.numbers
    wait_until(lambda: not worker_pids())
    decisions = device.decisions()
    items = [decision.item for decision in decisions]
    changes = [version for version, _ in groupby(decision.version for decision in decisions)]
    first, last = rests[:MEDIAN_OF], rests[-MEDIAN_OF:]
    before_mb, after_mb = (statistics.median(r.rss_mb for r in part) for part in (first, last))
    pauses = sorted(d.swap_pause_ms for d in decisions if d.swap_pause_ms)
    return {
        "swaps": len(changes) - 1 - WARM_SWAPS,
        "items": len(items),
        "items_per_s": round(numbers.items_per_s),
        "items_failed": numbers.items_failed,
        "items_dropped": numbers.items_dropped,
        "items_lost": items[-1] + 1 - len(items),
        "items_out_of_order": sum(after <= before for before, after in pairwise(items)),
        "rss_mb_before": round(before_mb, 1),
        "rss_mb_after": round(after_mb, 1),
        "rss_mb": [round(rest.rss_mb, 1) for rest in rests],
        "descriptors": [rest.descriptors for rest in rests],
        "rss_growth": round(after_mb / before_mb - 1.0, 4),
        "descriptors_grown": _least(last, "descriptors") - _least(first, "descriptors"),
        "threads_grown": _least(last, "threads") - _least(first, "threads"),
        "workers_left": len(worker_pids()),
        "swap_pause_ms_median": round(statistics.median(pauses), 2) if pauses else 0.0,
        "swap_pause_ms_worst": round(pauses[-1], 2) if pauses else 0.0,
    }


def _least(rests: list[Rest], name: str) -> int:
    return min(asdict(rest)[name] for rest in rests)


if __name__ == "__main__":
    limit_arenas()
    pad_heap()
    place, named = Path(sys.argv[1]), Path(sys.argv[2])
    known = msgspec.json.decode(named.read_bytes(), type=list[TargetRelease])
    per_s = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    print(json.dumps(run_swaps(place, named.parent, known, int(sys.argv[3]), per_s)))
