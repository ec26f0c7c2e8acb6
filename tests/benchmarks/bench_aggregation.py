"""Updates of many devices made into one: ours beside Flower's own, and beside memory's speed.

Run: python -m tests.benchmarks.bench_aggregation [--clients 100] [--megabytes 10] [--repeats 3]
     [--folder DIR] [--only NAME ...]
Prints one JSON line last. Every contestant runs in a process of its own, in turn, `--repeats`
times; seconds are medians, memory is the peak resident set less that before the first update.
Updates come of a seed; making them is not in the seconds. Flower holds all replies, so its memory
has them too; where they would not fit (--flower-gib-max), it is left out and said.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, Krum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from cloud_hub.training import order
from cloud_hub.training.aggregation import mean
from cloud_hub.training.aggregation.checks import UpdateChecks
from cloud_hub.training.aggregation.entry import UpdateEntry
from cloud_hub.training.aggregation.file_round_store import RoundStore
from cloud_hub.training.aggregation.flwr_strategies import reply_of
from shared.model.weights import Field, Layout, Vector

FLOWERS = ("flower_mean", "flower_median", "flower_krum", "flower_arrays")
OURS: dict[str, order.Strategy] = {
    "mean_durable": order.MeanStrategy(),
    "median": order.MedianStrategy(),
    "krum": order.KrumStrategy(malicious_count=2),
}
CONTESTANTS = ("memcpy", "mean_memory", *OURS, *FLOWERS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flower-gib-max", type=float, default=14.0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--contestant", choices=CONTESTANTS)
    arguments = parser.parse_args()
    size = arguments.megabytes * 1_000_000 // 4
    if arguments.contestant:
        print(json.dumps(_compete(arguments.contestant, arguments.clients, size, arguments.folder)))
        return
    print(json.dumps(_all(arguments)))


def _all(arguments: argparse.Namespace) -> dict[str, object]:
    gib = arguments.clients * arguments.megabytes * 1e6 / 2**30
    # FedMedian stacks what it holds, Krum too: twice the replies.
    names = [
        name
        for name in arguments.only
        if name not in FLOWERS
        or gib * (1 if name in {"flower_mean", "flower_arrays"} else 2.2) < arguments.flower_gib_max
    ]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name in names:
            runs[name].append(_in_process(name, arguments))
    figures: dict[str, object] = {
        "bench": "aggregation",
        "clients": arguments.clients,
        "megabytes": arguments.megabytes,
        "cpus": os.cpu_count(),
        "left_out": [name for name in arguments.only if name not in names],
    }
    for name, results in runs.items():
        for key in results[0]:
            median = statistics.median(result[key] for result in results)
            figures[f"{name}_{key}"] = round(median, 3)
    return figures


def _in_process(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        command = [sys.executable, "-m", "tests.benchmarks.bench_aggregation", "--contestant", name]
        command += ["--clients", str(arguments.clients), "--folder", folder]
        command += ["--megabytes", str(arguments.megabytes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(name, result, file=sys.stderr)
    return result


def _compete(name: str, clients: int, size: int, folder: Path) -> dict[str, float]:
    pool = np.random.default_rng(7).standard_normal(size, dtype=np.float32)
    before_bytes = _peak_bytes()
    if name == "memcpy":
        seconds = _memcpy(pool)
        return {"gb_per_s": size * 4 / seconds / 1e9, "all_s": clients * seconds}
    if name in FLOWERS:
        result = _flower(name, pool, clients)
    elif name == "mean_memory":
        result = _mean_memory(pool, clients)
    else:
        result = _store(OURS[name], pool, clients, folder)
    return {**result, "peak_mb": (_peak_bytes() - before_bytes) / 1e6}


def _update(pool: Vector, client: int) -> Vector:
    """Return one client's update: turned and scaled noise, so that no two are alike."""
    scale = np.float32(1.0 + (client % 7) / 20)
    return np.roll(pool, client * 997) * scale


def _memcpy(pool: Vector) -> float:
    target = np.empty_like(pool)
    times = [_timed(lambda: np.copyto(target, pool)) for _ in range(20)]
    return statistics.median(times)


def _mean_memory(pool: Vector, clients: int) -> dict[str, float]:
    total = np.zeros(pool.size)
    seconds = 0.0
    for client in range(clients):
        update = _update(pool, client)

        def check_and_fold(update: Vector = update) -> None:
            assert np.isfinite(mean.norm_of(update))
            mean.fold(total, update, 3.0)

        seconds += _timed(check_and_fold)
    return {"s": seconds + _timed(lambda: mean.divided(total, 3.0 * clients))}


def _store(strategy: order.Strategy, pool: Vector, clients: int, folder: Path) -> dict[str, float]:
    layout = Layout((Field("weights", (pool.size,), 0),))
    checks = UpdateChecks(order.CheckSettings())
    store = RoundStore(folder / "round", layout, strategy, checks=checks, late=order.LateSettings())
    store.restore()
    add_s = 0.0
    for client in range(clients):
        entry = UpdateEntry(f"c{client}", _update(pool, client), samples_count=3)
        add_s += _timed(lambda entry=entry: store.add(entry))  # type: ignore[misc]
    close_s = _timed(store.close)
    store.discard()
    return {"s": add_s + close_s, "add_s": add_s, "close_s": close_s}


def _flower(name: str, pool: Vector, clients: int) -> dict[str, float]:
    contents = [
        RecordDict(
            {
                "arrays": ArrayRecord({"weights": Array(_update(pool, client))}),
                "metrics": MetricRecord({"num-examples": 3.0}),
            }
        )
        for client in range(clients)
    ]
    if name == "flower_arrays":
        return {"s": _timed(lambda: aggregate_arrayrecords(contents, "num-examples"))}
    replies = [reply_of(content) for content in contents]
    strategy = {
        "flower_mean": FedAvg(),
        "flower_median": FedMedian(),
        "flower_krum": Krum(num_malicious_nodes=2),
    }[name]
    return {"s": _timed(lambda: strategy.aggregate_train(1, replies))}


def _timed(act: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
