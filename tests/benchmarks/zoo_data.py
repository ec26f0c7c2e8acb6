"""Real data as sources that the product's importer reads, for the benches of training.

1. Fashion-MNIST: an .npz of pictures with class names and parts.
2. Beijing air: CSV files with one more column, the level of PM2.5 at that hour, which is to be told
   from the other sensors of a day; windows and parts are the importer's work.
3. Tiny Shakespeare: a CSV file of sentences without their last mark, which is to be told.
4. NAB: its own folders, only those series that show one and the same daily course.
5. Scenes: Fashion-MNIST's things laid on noise, with their boxes, as a YOLO folder.
"""

import csv
import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.readers.options import LabelRule, ReaderOptions, SourceLayout

NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
SIDE = 28
TRAIN, VALIDATION, TEST = "train", "validation", "test"
NORMAL, ANOMALY = "normal", "anomaly"
LEVELS = ("clean", "hazy", "foul")
HAZY_FROM, FOUL_FROM = 50.0, 115.0  # ug/m3 of PM2.5
AIR_COLUMNS = ("PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM")
AIR_HOURS = 24
AIR_BLOCK_HOURS = 336  # Two weeks stay in one part
NAB_SAMPLES = 288  # A day of five minutes each
NAB_SEED = 1  # Deals a series with an anomaly to the test part
NAB_SERIES = (
    "artificialNoAnomaly/art_daily_small_noise.csv",
    "artificialWithAnomaly/art_daily_jumpsdown.csv",
    "artificialWithAnomaly/art_daily_jumpsup.csv",
    "artificialWithAnomaly/art_daily_nojump.csv",
)
MARKS = MappingProxyType({".": "statement", "?": "question", "!": "exclamation"})
SENTENCE_CHARS_MIN = 12
SCENE_SIDE = 64
SCENE_NAMES = ("trouser", "bag", "boot")

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fashion:
    """Fashion-MNIST, whole."""

    train: Pixels  # (60000, 28, 28)
    train_labels: Labels
    test: Pixels  # (10000, 28, 28)
    test_labels: Labels


def data_folder() -> Path:
    """Return where the real data lie."""
    return Path(os.environ["ISTHMUS_DATA"]) / "data"


def load_fashion() -> Fashion:
    """Return the four IDX files."""
    folder = data_folder() / "fashion-mnist"
    return Fashion(
        _idx(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE),
        _idx(folder / "train-labels-idx1-ubyte.gz", 8).astype(np.int64),
        _idx(folder / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE),
        _idx(folder / "t10k-labels-idx1-ubyte.gz", 8).astype(np.int64),
    )


def write_fashion(
    path: Path,
    fashion: Fashion,
    counts: Mapping[str, int],
    *,
    classes: tuple[str, ...] = NAMES,
) -> ImportRule:
    """Write the first pictures of some classes as .npz; return the rule that reads it.

    Args:
        path: of the file.
        fashion: all pictures.
        counts: how many of each class each part gets; the test part is of the published test part.
        classes: which.
    """
    _save(path, fashion, [(name, name, counts) for name in classes])
    return ImportRule(layout=SourceLayout.NPZ, options=ReaderOptions(classes=classes))


def write_anomalies(
    path: Path,
    fashion: Fashion,
    normal: str,
    normal_counts: Mapping[str, int],
    other_counts: Mapping[str, int],
) -> ImportRule:
    """Write one class as what is normal, and some of every other as anomalies."""
    rows = [(normal, NORMAL, normal_counts)]
    rows += [(name, ANOMALY, other_counts) for name in NAMES if name != normal]
    _save(path, fashion, rows)
    return ImportRule(layout=SourceLayout.NPZ, options=ReaderOptions(classes=(NORMAL, ANOMALY)))


def _save(path: Path, fashion: Fashion, rows: Sequence[tuple[str, str, Mapping[str, int]]]) -> None:
    """Write pictures of classes under their labels, so many for each part."""
    items, labels, parts = [], [], []
    for name, label, counts in rows:
        number = NAMES.index(name)
        pool = np.flatnonzero(fashion.train_labels == number)
        held = np.flatnonzero(fashion.test_labels == number)[: counts[TEST]]
        trained, chosen = counts[TRAIN], counts[VALIDATION]
        taken = pool[: trained + chosen]
        items += [fashion.train[taken], fashion.test[held]]
        labels += [label] * (len(taken) + len(held))
        parts += [TRAIN] * trained + [VALIDATION] * (len(taken) - trained) + [TEST] * len(held)
    np.savez(path, items=np.concatenate(items), labels=np.array(labels), parts=np.array(parts))


def write_air(folder: Path, *, stations: int, rows_max: int) -> ImportRule:
    """Write some stations' tables with the level of PM2.5; return the rule that reads them."""
    folder.mkdir()
    sources = sorted((data_folder() / "beijing-air-12-stations").glob("PRSA_Data_*.csv.gz"))
    for source in sources[:stations]:
        with (
            gzip.open(source, "rt", newline="") as read,
            (folder / source.name.removesuffix(".gz")).open("w", newline="") as written,
        ):
            table = csv.DictReader(read)
            out = csv.DictWriter(written, [*(table.fieldnames or ()), "label"])
            out.writeheader()
            for index, row in enumerate(table):
                if index >= rows_max:
                    break
                out.writerow(row | {"label": _level(row["PM2.5"])})
    options = ReaderOptions(
        time_columns=("year", "month", "day", "hour"),
        value_columns=AIR_COLUMNS,
        device_column="station",
        window=AIR_HOURS,
        stride=AIR_HOURS // 2,
        block_rows=AIR_BLOCK_HOURS,
        label_rule=LabelRule.LAST,
    )
    return ImportRule(layout=SourceLayout.CSV, options=options)


def write_sentences(path: Path, *, each_max: int) -> ImportRule:
    """Write sentences of every kind, at most so many of each; return the rule that reads them."""
    text = (data_folder() / "tinyshakespeare" / "input.txt").read_text()
    speeches = (block.partition(":\n")[2] for block in text.split("\n\n"))
    said = " ".join(speech.replace("\n", " ") for speech in speeches)
    counts: Counter[str] = Counter()
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("text", "label"))
        for words, mark in re.findall(r"([^.?!]+)([.?!])", said):
            counts[mark] += len(words) >= SENTENCE_CHARS_MIN
            if len(words) >= SENTENCE_CHARS_MIN and counts[mark] <= each_max:
                out.writerow((words.strip(), MARKS[mark]))
    return ImportRule(layout=SourceLayout.CSV)


def write_nab(folder: Path, *, stride: int) -> ImportRule:
    """Write NAB's daily courses, labels and all; return the rule that reads them."""
    source = data_folder() / "nab"
    for name in NAB_SERIES:
        wanted = folder / "data" / name
        wanted.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "data" / name, wanted)
    spans = json.loads((source / "labels" / "combined_windows.json").read_bytes())
    (folder / "labels").mkdir()
    told = {name: found for name, found in spans.items() if name in NAB_SERIES}
    (folder / "labels" / "combined_windows.json").write_text(json.dumps(told))
    return ImportRule(
        layout=SourceLayout.NAB,
        options=ReaderOptions(window=NAB_SAMPLES, stride=stride),
        seed=NAB_SEED,
    )


def write_scenes(folder: Path, fashion: Fashion, counts: Mapping[str, int]) -> ImportRule:
    """Write pictures of up to three things each, with boxes; return the rule that reads them."""
    random = np.random.default_rng(0)
    for part, count in counts.items():
        pictures, labels = (
            (fashion.test, fashion.test_labels)
            if part == TEST
            else (fashion.train, fashion.train_labels)
        )
        pools = [np.flatnonzero(labels == NAMES.index(name)) for name in SCENE_NAMES]
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for index in range(count):
            scene, rows = _scene(pictures, pools, random)
            cv2.imwrite(str(folder / "images" / part / f"{index:05}.png"), scene)
            text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
            (folder / "labels" / part / f"{index:05}.txt").write_text(text)
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(SCENE_NAMES))
    (folder / "data.yaml").write_text(f"names:\n{names}")
    return ImportRule(layout=SourceLayout.YOLO)


def _scene(
    pictures: Pixels, pools: list[NDArray[np.intp]], random: np.random.Generator
) -> tuple[Pixels, list[tuple[float, ...]]]:
    """Return a picture, and class, centre and size in shares of each thing on it."""
    scene = random.integers(0, 70, (SCENE_SIDE, SCENE_SIDE)).astype(np.uint8)
    rows = []
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    for place in random.permutation(4)[: random.integers(1, 4)]:
        kind = int(random.integers(len(pools)))
        thing = pictures[random.choice(pools[kind])]
        top, left = (start + int(random.integers(0, 5)) for start in corners[place])
        part = scene[top : top + SIDE, left : left + SIDE]
        np.maximum(part, thing, out=part)
        ys, xs = np.nonzero(thing > 70)
        size = (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
        centre = (left + xs.min() + size[0] / 2, top + ys.min() + size[1] / 2)
        rows.append((kind, *(round(float(v) / SCENE_SIDE, 5) for v in (*centre, *size))))
    return scene, rows


def _level(text: str) -> str:
    if text in ("", "NA"):
        return ""
    value = float(text)
    return LEVELS[(value >= HAZY_FROM) + (value >= FOUL_FROM)]


def _idx(path: Path, header_bytes: int) -> Pixels:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header_bytes)
