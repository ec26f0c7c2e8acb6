"""Small real tasks for tests of learning: hours of air, a machine's temperature, clothes."""

import csv
import gzip
import json
from datetime import datetime
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.requirements import require_data

AIR_COLUMNS = ("SO2", "NO2", "CO", "O3", "TEMP", "WSPM")
AIR_HOURS = 24
STATION = "data/beijing-air-12-stations/PRSA_Data_Dongsi_20130301-20170228.csv.gz"
MACHINE = "realKnownCause/machine_temperature_system_failure.csv"
MACHINE_SAMPLES = 48  # Of 15 minutes: half a day
FASHION = "data/fashion-mnist"
IDX_HEADER = {"images": 16, "labels": 8}


@cache
def air() -> tuple[Tensor, Tensor]:
    """Return days of one station in Beijing, (N, 6, 24), and where each begins: hour 0, 6, 12, 18.

    Channels have mean 0 and deviation 1; missing hours are filled with the last one known.
    """
    with gzip.open(require_data(STATION), "rt") as file:
        rows = list(csv.DictReader(file))
    columns = [_filled([row[name] for row in rows]) for name in AIR_COLUMNS]
    table = np.stack(columns, axis=1)  # (hours, 6)
    table = (table - table.mean(0)) / table.std(0)
    starts = np.arange(0, len(table) - AIR_HOURS, 30)  # Every 30 hours: each quarter in turn
    windows = np.stack([table[start : start + AIR_HOURS].T for start in starts])
    quarters = np.array([int(rows[start]["hour"]) // 6 for start in starts])
    return torch.from_numpy(windows.astype(np.float32)), torch.from_numpy(quarters)


@cache
def machine() -> tuple[Tensor, NDArray[np.bool_]]:
    """Return half-days of a machine's temperature, (N, 1, 48), and which of them NAB calls bad."""
    with require_data(f"data/nab/data/{MACHINE}").open() as file:
        rows = list(csv.DictReader(file))
    labels = json.loads(require_data("data/nab/labels/combined_windows.json").read_text())
    bad = [tuple(datetime.fromisoformat(end) for end in window) for window in labels[MACHINE]]
    values = np.array([float(row["value"]) for row in rows[: len(rows) // 3 * 3]])
    values = values.reshape(-1, 3).mean(1)  # 5 minutes to 15
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows[::3]]
    is_bad = np.array([any(start <= time <= end for start, end in bad) for time in times])
    values = (values - values.mean()) / values.std()
    starts = range(0, len(values) - MACHINE_SAMPLES, 6)
    windows = np.stack([values[start : start + MACHINE_SAMPLES] for start in starts])[:, None]
    flags = np.array([is_bad[start : start + MACHINE_SAMPLES].mean() > 0.5 for start in starts])
    return torch.from_numpy(windows.astype(np.float32)), flags


@cache
def fashion(count: int) -> tuple[Tensor, Tensor]:
    """Return test pictures of Fashion-MNIST at half size, (N, 1, 14, 14) 0..1, and classes."""
    folder = require_data(FASHION)
    pixels = _idx(folder / "t10k-images-idx3-ubyte.gz", "images")[: count * 784]
    items = torch.from_numpy(pixels.reshape(count, 1, 28, 28).astype(np.float32) / 255.0)
    labels = _idx(folder / "t10k-labels-idx1-ubyte.gz", "labels")[:count].astype(np.int64)
    return torch.nn.functional.avg_pool2d(items, 2), torch.from_numpy(labels)


def _idx(path: object, kind: str) -> NDArray[np.uint8]:
    with gzip.open(path, "rb") as file:  # type: ignore[call-overload]  # A Path, by its maker
        return np.frombuffer(file.read(), np.uint8)[IDX_HEADER[kind] :]


def _filled(texts: list[str]) -> NDArray[np.float64]:
    """Return a column's numbers, each NA replaced by what came before it."""
    values, last = [], 0.0
    for text in texts:
        last = last if text == "NA" else float(text)
        values.append(last)
    return np.array(values)
