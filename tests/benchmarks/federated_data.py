"""Real data, split over clients as papers do; for bench_federated.py.

1. IID: shuffled, equal parts. Dirichlet (Hsu et al. 2019): each class is dealt out by shares drawn
   from Dirichlet(alpha) over clients. Labels: each client sees `labels_each` classes only. Shards
   (McMahan et al. 2017): sorted by label, cut into 2 x clients shards, two for each client.
2. Beijing: one client for each of the 12 stations; windows of PM2.5 and weather, the target some
   hours ahead; split by time (first 70 % train, then 10 % to tune with, last 20 % test).
"""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Items = NDArray[np.float32]
Labels = NDArray[np.int64]
IDX_HEADER = {3: 16, 1: 8}  # Bytes before the numbers, by axes
PARTITION_SAMPLES_MIN = 20
BEIJING_COLUMNS = ("PM2.5", "TEMP", "PRES", "DEWP", "WSPM")
BEIJING_HOURS = 24


@dataclass(frozen=True, slots=True)
class Images:
    """A labelled set of gray images."""

    train_items: Items  # (N, 1, H, W), standardised
    train_labels: Labels
    test_items: Items
    test_labels: Labels


def load_images(folder: Path) -> Images:
    """Return what four IDX files (plain or .gz, MNIST's names) hold."""
    train, test = (_read_idx(folder, f"{part}-images-idx3-ubyte") for part in ("train", "t10k"))
    mean, scale = float(train.mean()), float(train.std())
    return Images(
        ((train[:, None] - mean) / scale).astype(np.float32),
        _read_idx(folder, "train-labels-idx1-ubyte").astype(np.int64),
        ((test[:, None] - mean) / scale).astype(np.float32),
        _read_idx(folder, "t10k-labels-idx1-ubyte").astype(np.int64),
    )


def split_iid(labels: Labels, clients: int, *, seed: int) -> list[Labels]:
    """Return indices for each client."""
    return np.array_split(np.random.default_rng(seed).permutation(len(labels)), clients)


def split_dirichlet(labels: Labels, clients: int, *, alpha: float, seed: int) -> list[Labels]:
    """Return indices for each client; drawn again until each has some."""
    random = np.random.default_rng(seed)
    while True:
        parts: list[list[int]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            indices = random.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(random.dirichlet([alpha] * clients))[:-1] * len(indices)
            for part, piece in zip(parts, np.split(indices, cuts.astype(int)), strict=True):
                part.extend(piece.tolist())
        if min(map(len, parts)) >= PARTITION_SAMPLES_MIN:
            return [random.permutation(np.array(part, np.int64)) for part in parts]


def split_labels(labels: Labels, clients: int, *, labels_each: int, seed: int) -> list[Labels]:
    """Return indices for each client, who sees `labels_each` classes; every class is seen."""
    random = np.random.default_rng(seed)
    classes = np.unique(labels)
    dealt = [
        [
            int(classes[(client + step * clients // labels_each) % len(classes)])
            for step in range(labels_each)
        ]
        for client in range(clients)
    ]
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in classes:
        holders = [client for client in range(clients) if label in dealt[client]]
        pieces = np.array_split(random.permutation(np.flatnonzero(labels == label)), len(holders))
        for holder, piece in zip(holders, pieces, strict=True):
            parts[holder].extend(piece.tolist())
    return [random.permutation(np.array(part, np.int64)) for part in parts]


def split_shards(labels: Labels, clients: int, *, seed: int) -> list[Labels]:
    """Return indices for each client: two shards of 2 x clients, sorted by label."""
    random = np.random.default_rng(seed)
    shards = np.array_split(np.argsort(labels, kind="stable"), 2 * clients)
    order = random.permutation(2 * clients)
    return [
        np.concatenate([shards[order[2 * client]], shards[order[2 * client + 1]]])
        for client in range(clients)
    ]


@dataclass(frozen=True, slots=True)
class Station:
    """One station's windows; targets and windows are standardised by the training part."""

    name: str
    train_items: Items  # (N, C, T)
    train_targets: Items  # (N, 1)
    test_items: Items
    test_targets: Items
    test_now: Items  # (N, 1) PM2.5 at the end of the window: what persistence forecasts
    scale: float  # ug/m3 of one standard deviation of PM2.5


def load_stations(folder: Path, *, hours_ahead: int, step: int = 1) -> list[Station]:
    """Return the 12 stations; every `step`-th window. Each scales by its own training part."""
    return [
        _station(path, hours_ahead=hours_ahead, step=step)
        for path in sorted(folder.glob("PRSA_Data_*.csv.gz"))
    ]


def _station(path: Path, *, hours_ahead: int, step: int) -> Station:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    series = np.array(
        [[_number(row[column]) for column in BEIJING_COLUMNS] for row in rows], np.float32
    )  # (hours, C)
    is_known = ~np.isnan(series[:, 0])
    cut = int(len(series) * 0.7)
    mean, scale = np.nanmean(series[:cut], axis=0), np.nanstd(series[:cut], axis=0)
    filled = _carry_forward((series - mean) / scale)
    ends = np.arange(BEIJING_HOURS, len(series) - hours_ahead, step)
    # A window ends, and a target lies, where PM2.5 was measured: nothing is judged by a guess.
    ends = ends[is_known[ends - 1] & is_known[ends - 1 + hours_ahead]]
    windows = np.stack([filled[end - BEIJING_HOURS : end].T for end in ends])  # (N, C, T)
    targets = filled[ends - 1 + hours_ahead, :1]
    now = filled[ends - 1, :1]
    is_train, is_test = ends < cut, ends >= int(len(series) * 0.8)
    return Station(
        name=path.name.split("_")[2],
        train_items=np.ascontiguousarray(windows[is_train]),
        train_targets=targets[is_train],
        test_items=np.ascontiguousarray(windows[is_test]),
        test_targets=targets[is_test],
        test_now=now[is_test],
        scale=float(scale[0]),
    )


def _carry_forward(series: Items) -> Items:
    """Return a series whose gaps hold the last known number; 0 (the mean) before the first."""
    filled = series.copy()
    for column in range(series.shape[1]):
        known = np.where(np.isnan(series[:, column]), 0, np.arange(len(series)))
        filled[:, column] = series[np.maximum.accumulate(known), column]
    return np.nan_to_num(filled, nan=0.0)


def _number(text: str) -> float:
    return float("nan") if text in ("", "NA") else float(text)


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            data = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
            axes = data[3]
            shape = np.frombuffer(data, ">i4", axes, 4)
            return np.frombuffer(data, np.uint8, offset=IDX_HEADER[axes]).reshape(shape)
    raise FileNotFoundError(f"no {name}(.gz) in {folder}")
