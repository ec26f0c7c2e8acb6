"""How well devices learn together on real data, by the product's own training and aggregation.

Every client trains by edge_agent/training/torch_trainer.py; its update goes through the update
codec and the checks, and is averaged by the Round's store: only the network between them is left
out (bench-flower-rounds times that). Clients are spread over processes, one thread each.

    images   Fashion-MNIST, 10 clients: IID, Dirichlet 0.5, 2 labels a client; beside the published
             figures of 50 rounds of 10 local epochs (--rounds 50 --epochs 10 runs just that)
    mnist    McMahan et al. 2017: --data FOLDER with MNIST's IDX files; 100 clients, C, E, B;
             prints the rounds to 97, 98 and 99 %
    air      12 Beijing stations forecast PM2.5: persistence, local-only, pooled, federated

Prints one JSON object as its last line.
"""

import argparse
import copy
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cloud_hub.training.aggregation.checks import UpdateChecks
from cloud_hub.training.aggregation.entry import UpdateEntry
from cloud_hub.training.aggregation.file_round_store import RoundStore
from cloud_hub.training.aggregation.flwr_strategies import ServerStep
from cloud_hub.training.order import JobOrder, MeanStrategy
from edge_agent.training.torch_trainer import measure, train
from shared.learning.task import Encoding, LocalMethod, OptimiserName
from shared.learning.update_codec import decode_update, encode_update
from shared.model.network import ConvolutionNetwork, NetworkSpec, RecurrentNetwork
from shared.model.spec import ModelSpec, parse_spec
from shared.model.torch_networks import build_network
from shared.model.weights import Layout, Vector, flatten, layout_of, unflatten
from tests.benchmarks import federated_data as data

SEED = 3
PUBLISHED = {"iid": 0.8923, "dirichlet_0.5": 0.8809, "labels_2": 0.7810}  # data's SOURCE.md
GOALS = (0.97, 0.98, 0.99)
IMAGE_SPEC = """
model = "images"
task = "classification"
input = {kind = "image", width = 28, height = 28, colour = "gray"}
output = {decoder = "logits", classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}
"""
AIR_SPEC = f"""
model = "air"
task = "anomaly"
input = {{kind = "window", samples = {data.BEIJING_HOURS}, channels = {len(data.BEIJING_COLUMNS)}}}
output = {{decoder = "score"}}
"""


@dataclass(frozen=True, slots=True)
class Client:
    """One device's samples."""

    items: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Setting:
    """What all clients share."""

    spec: ModelSpec
    network: NetworkSpec
    method: LocalMethod
    encoding: Encoding
    layout: Layout
    clients: tuple[Client, ...]


# Set before the workers are forked: a task then names a client only.
_setting: Setting | None = None


def learn(task: tuple[int, int, Vector, Vector | None]) -> tuple[int, Vector, Vector, float, float]:
    """Train one client from given weights; return (client, update, residual, loss, CPU seconds)."""
    assert _setting is not None
    index, round_number, weights, residual = task
    torch.set_num_threads(1)
    began_s = time.process_time()
    net = build_network(_setting.network, _setting.spec)
    load(net, weights, _setting.layout)
    client = _setting.clients[index]
    outcome = train(
        net,
        client.items,
        client.labels,
        _setting.method,
        spec=_setting.spec,
        seed=round_number * 1000 + index,
    )
    update = vector_of(net, _setting.layout) - weights
    if residual is not None:
        update = update + residual
    encoded = encode_update(update, _setting.layout, _setting.encoding)
    arrived = decode_update(encoded.arrays, _setting.layout, _setting.encoding)
    return index, arrived, encoded.residual, outcome.loss, time.process_time() - began_s


def load(net: nn.Module, weights: Vector, layout: Layout) -> None:
    """Put a vector's numbers into a network."""
    state = net.state_dict()
    for name, array in unflatten(weights, layout).items():
        state[name] = torch.from_numpy(array.copy())
    net.load_state_dict(state)


def vector_of(net: nn.Module, layout: Layout) -> Vector:
    """Return a network's averaged arrays as one vector."""
    return flatten({name: value.numpy() for name, value in net.state_dict().items()}, layout)


@dataclass(slots=True)
class Course:
    """What became of a run."""

    scores: list[float]
    seconds: float
    cpu_s: float
    bytes_up: int
    weights: Vector


def federate(
    setting: Setting,
    *,
    rounds: int,
    fraction: float,
    judge: Callable[[nn.Module], float],
    processes: int,
    say: str,
    is_enough: Callable[[float], bool] = lambda _: False,
) -> Course:
    """Run `rounds` Rounds over all clients, or a fraction of them drawn anew each time."""
    global _setting
    _setting = setting
    net = build_network(setting.network, setting.spec, seed=SEED)
    weights = vector_of(net, setting.layout)
    order = JobOrder(model="bench", strategy=MeanStrategy())
    step, checks = (
        ServerStep.for_strategy(order.strategy, setting.layout),
        UpdateChecks(order.checks),
    )
    residuals: dict[int, Vector] = {}
    random = np.random.default_rng(SEED)
    course = Course([], 0.0, 0.0, 0, weights)
    began_s = time.perf_counter()
    with workers(processes) as run, tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            count = max(1, round(fraction * len(setting.clients)))
            chosen = sorted(random.permutation(len(setting.clients))[:count].tolist())
            store = RoundStore(
                Path(folder) / str(number),
                setting.layout,
                order.strategy,
                checks=checks,
                late=order.late,
            )
            store.restore()
            tasks = [(index, number, weights, residuals.get(index)) for index in chosen]
            for index, update, residual, loss, cpu_s in run(tasks):
                if setting.encoding is not Encoding.FP32:
                    residuals[index] = residual
                samples = len(setting.clients[index].items)
                store.add(UpdateEntry(f"client-{index}", update, samples, loss))
                course.cpu_s += cpu_s
                course.bytes_up += update.nbytes
            weights = step.apply(weights, store.close())
            store.discard()
            load(net, weights, setting.layout)
            course.scores.append(judge(net))
            print(f"  {say}: round {number}: {course.scores[-1]:.4f}", flush=True)
            if is_enough(course.scores[-1]):
                break
    course.seconds, course.weights = time.perf_counter() - began_s, weights
    return course


class workers:  # noqa: N801  (used as a context manager, like a function)
    """A pool forked after the data is set, so that clients' samples are not copied."""

    def __init__(self, processes: int) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(processes)

    def __enter__(self) -> Callable[[Sequence[Any]], Iterator[Any]]:
        return lambda tasks: self._pool.imap(learn, tasks)

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()


def bench_images(args: argparse.Namespace) -> dict[str, Any]:
    """Fashion-MNIST with 10 clients, three ways of splitting."""
    images = data.load_images(data_folder() / "fashion-mnist")
    splits = {
        "iid": data.split_iid(images.train_labels, 10, seed=SEED),
        "dirichlet_0.5": data.split_dirichlet(images.train_labels, 10, alpha=0.5, seed=SEED),
        "labels_2": data.split_labels(images.train_labels, 10, labels_each=2, seed=SEED),
    }
    found: dict[str, Any] = {}
    for name, parts in splits.items():
        setting = image_setting(images, parts, args)
        course = federate(
            setting,
            rounds=args.rounds,
            fraction=1.0,
            judge=judge_images(images),
            processes=args.processes,
            say=name,
        )
        found[name] = {
            "accuracy": round(course.scores[-1], 4),
            "accuracy_best": round(max(course.scores), 4),
            "published_after_50_rounds_of_10_epochs": PUBLISHED[name],
            "seconds": round(course.seconds, 1),
            "client_cpu_s": round(course.cpu_s, 1),
        }
    return {"rounds": args.rounds, "local_epochs": args.epochs, "batch": args.batch, **found}


def bench_mnist(args: argparse.Namespace) -> dict[str, Any]:
    """McMahan et al. 2017, table 2: 100 clients, their CNN's size, C, E and B as given."""
    images = data.load_images(args.data)
    splits = {
        "iid": data.split_iid(images.train_labels, args.clients, seed=SEED),
        "two_shards": data.split_shards(images.train_labels, args.clients, seed=SEED),
    }
    found: dict[str, Any] = {}
    for name, parts in splits.items():
        setting = image_setting(images, parts, args, channels=(32, 64), hidden=512)
        course = federate(
            setting,
            rounds=args.rounds,
            fraction=args.fraction,
            judge=judge_images(images),
            processes=args.processes,
            say=name,
            is_enough=lambda score: score >= GOALS[-1],
        )
        to = {
            f"rounds_to_{goal:.0%}": next(
                (number for number, s in enumerate(course.scores, 1) if s >= goal), None
            )
            for goal in GOALS
        }
        best = {"accuracy_best": round(max(course.scores), 4), "seconds": round(course.seconds, 1)}
        found[name] = {**to, **best}
    shown = {"clients": args.clients, "C": args.fraction, "E": args.epochs, "B": args.batch}
    return {**shown, "rounds_max": args.rounds, **found}


def bench_air(args: argparse.Namespace) -> dict[str, Any]:
    """RMSE in ug/m3, mean over the 12 stations, of forecasts an hour and a day ahead."""
    found: dict[str, Any] = {}
    for hours in (1, 24):
        stations = data.load_stations(
            data_folder() / "beijing-air-12-stations", hours_ahead=hours, step=args.step
        )
        found[f"{hours}_hours_ahead"] = forecast(stations, args, say=f"{hours} h")
    return {"step_hours": args.step, "rounds": args.rounds, "local_epochs": args.epochs, **found}


def forecast(stations: list[data.Station], args: argparse.Namespace, *, say: str) -> dict[str, Any]:
    """Return the errors of every way of learning, with the same passes over the data."""
    spec = parse_spec(AIR_SPEC.encode())
    network = NetworkSpec(architecture=RecurrentNetwork(hidden=32))
    method = LocalMethod(
        epochs=args.epochs,
        batch_size=128,
        optimiser=OptimiserName.ADAM,
        learning_rate=2e-3,
        seed=SEED,
    )
    clients = tuple(
        Client(torch.from_numpy(s.train_items), torch.from_numpy(s.train_targets[:, 0]))
        for s in stations
    )
    net = build_network(network, spec, seed=SEED)
    layout = layout_of({name: value.numpy() for name, value in net.state_dict().items()})
    setting = Setting(spec, network, method, Encoding.FP32, layout, clients)
    course = federate(
        setting,
        rounds=args.rounds,
        fraction=1.0,
        judge=lambda network: float(np.mean([rmse(network, s) for s in stations])),
        processes=args.processes,
        say=say,
    )
    load(net, course.weights, layout)
    tuned = []
    local = []
    long = LocalMethod(
        epochs=args.epochs * args.rounds,
        batch_size=128,
        optimiser=OptimiserName.ADAM,
        learning_rate=2e-3,
    )
    for station, client in zip(stations, clients, strict=True):
        alone = build_network(network, spec, seed=SEED)
        train(alone, client.items, client.labels, long, spec=spec, seed=SEED)
        local.append(rmse(alone, station))
        own = copy.deepcopy(net)
        train(own, client.items, client.labels, method, spec=spec, seed=SEED)
        tuned.append(rmse(own, station))
    pooled = build_network(network, spec, seed=SEED)
    train(
        pooled,
        torch.cat([client.items for client in clients]),
        torch.cat([client.labels for client in clients]),
        LocalMethod(**{**_fields(long), "samples_max": 10_000_000}),
        spec=spec,
        seed=SEED,
    )
    persistence = [
        float(np.sqrt(((s.test_now - s.test_targets) ** 2).mean())) * s.scale for s in stations
    ]
    ways = {
        "persistence": persistence,
        "local_only": local,
        "pooled": [rmse(pooled, station) for station in stations],
        "federated": [rmse(net, station) for station in stations],
        "federated_then_own": tuned,
    }
    figures: dict[str, Any] = {
        f"rmse_{name}": round(float(np.mean(values)), 2) for name, values in ways.items()
    }
    better = sum(f < alone for f, alone in zip(ways["federated"], local, strict=True))
    return {
        **figures,
        "stations_better_than_local_only": better,
        "seconds": round(course.seconds, 1),
    }


def rmse(net: nn.Module, station: data.Station) -> float:
    """Return a station's error on its test part, in ug/m3."""
    net.eval()
    with torch.no_grad():
        forecasts = net(torch.from_numpy(station.test_items)).numpy()  # (N, 1)
    return float(np.sqrt(((forecasts - station.test_targets) ** 2).mean())) * station.scale


def image_setting(
    images: data.Images,
    parts: list[data.Labels],
    args: argparse.Namespace,
    *,
    channels: tuple[int, ...] = (6, 16),
    hidden: int = 120,
) -> Setting:
    """Return the setting of an image task: a small CNN, SGD."""
    spec = parse_spec(IMAGE_SPEC.encode())
    network = NetworkSpec(architecture=ConvolutionNetwork(channels=channels, hidden=hidden))
    items, labels = torch.from_numpy(images.train_items), torch.from_numpy(images.train_labels)
    clients = tuple(Client(items[part], labels[part]) for part in parts)
    net = build_network(network, spec, seed=SEED)
    layout = layout_of({name: value.numpy() for name, value in net.state_dict().items()})
    method = LocalMethod(
        epochs=args.epochs,
        batch_size=args.batch,
        learning_rate=args.learning_rate,
        momentum=args.momentum,
    )
    return Setting(spec, network, method, Encoding(args.encoding), layout, clients)


def judge_images(images: data.Images) -> Callable[[nn.Module], float]:
    """Return what measures a network on the test part."""
    spec = parse_spec(IMAGE_SPEC.encode())
    items, labels = torch.from_numpy(images.test_items), torch.from_numpy(images.test_labels)

    def judge(net: nn.Module) -> float:
        accuracy = measure(net, items, labels, spec=spec).accuracy
        assert accuracy is not None
        return accuracy

    return judge


def data_folder() -> Path:
    """Return where the real data lies, or end with the reason."""
    folder = os.environ.get("ISTHMUS_DATA")
    if not folder or not (Path(folder) / "data").is_dir():
        raise SystemExit("Set ISTHMUS_DATA to a folder with data/fashion-mnist and others.")
    return Path(folder) / "data"


def _fields(method: LocalMethod) -> dict[str, Any]:
    return {name: getattr(method, name) for name in method.__struct_fields__}


def main() -> None:
    """Run what is asked for; print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["images", "mnist", "air", "all"])
    parser.add_argument("--data", type=Path, help="of mnist: a folder with the IDX files")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1, help="E, local epochs")
    parser.add_argument("--batch", type=int, default=64, help="B")
    parser.add_argument("--fraction", type=float, default=0.1, help="C, of mnist")
    parser.add_argument("--clients", type=int, default=100, help="of mnist")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--encoding", choices=list(Encoding), default=Encoding.FP32)
    parser.add_argument("--step", type=int, default=3, help="of air: every n-th hour's window")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.what == "mnist" and args.data is None:
        parser.error("mnist needs --data FOLDER")
    torch.set_num_threads(1)
    benches = {"images": bench_images, "mnist": bench_mnist, "air": bench_air}
    wanted = ["images", "air"] if args.what == "all" else [args.what]
    figures = {name: benches[name](args) for name in wanted}
    print(json.dumps({"benchmark": "federated", "encoding": args.encoding, **figures}))


if __name__ == "__main__":
    main()
