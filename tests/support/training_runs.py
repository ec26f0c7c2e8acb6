"""Run folders with small datasets, as the hub makes them, and the trainer started on them."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import (
    Item,
    ItemKind,
    Manifest,
    Part,
    encode_manifest,
    manifest_path,
)
from cloud_hub.datasets.object_packs import PackWriter
from cloud_hub.object_store import ObjectStore
from cloud_hub.training.trainer.run_files import (
    EVENTS,
    MODULE,
    RESULT,
    SPEC,
    Event,
    RunResult,
    decode_event,
)
from cloud_hub.training.trainer.spec import DataSource, Recipe, TrainSpec
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from shared.release.digest import digest_of

SIDE = 8
CLASSES = ("bar", "stripe", "square")
MODEL = ModelSpec(
    model="shapes",
    task=Task.CLASSIFICATION,
    input=ImageInput(width=SIDE, height=SIDE, colour=Colour.GRAY, mean=(100.0,), scale=(90.0,)),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=CLASSES),
)
NETWORK = NetworkSpec(architecture=ConvolutionNetwork(channels=(8, 8), hidden=16))
RECIPE = Recipe(
    epochs=3.0, batch=32, learning_rate=0.05, is_deterministic=True, threads=1, save_every_s=0.0
)
SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class RunAt:
    """One run's folder."""

    folder: Path

    @property
    def spec_path(self) -> Path:
        return self.folder / SPEC

    @property
    def result(self) -> RunResult:
        return msgspec.json.decode((self.folder / RESULT).read_bytes(), type=RunResult)

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "error.json").read_bytes())
        return found

    def events(self, kind: type[Event] | None = None) -> list[Event]:
        path = self.folder / EVENTS
        lines = path.read_bytes().splitlines() if path.exists() else []
        found = [event for line in lines if (event := decode_event(line)) is not None]
        return [event for event in found if kind is None or isinstance(event, kind)]

    def start(self, *, processes: int = 1) -> subprocess.Popen[str]:
        """Start the trainer, in a process group of its own."""
        command = [sys.executable, "-m", MODULE, "--spec", str(self.spec_path)]
        if processes > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "0"]
            torchrun += ["--nproc-per-node", str(processes), "-m", MODULE]
            command = [sys.executable, *torchrun, "--spec", str(self.spec_path)]
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def to_its_end(self, *, processes: int = 1) -> tuple[int, str]:
        """Run the trainer; return its exit code and what it wrote to stderr."""
        with self.start(processes=processes) as process:
            _, stderr = process.communicate(timeout=SECONDS_MAX)
        return process.returncode, stderr


def shapes(count: int, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (n, SIDE, SIDE, 3) BGR pictures of noisy shapes, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pictures = random.integers(0, 120, (count, SIDE, SIDE, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        at = int(random.integers(0, SIDE - 3))
        match int(label):
            case 0:
                picture[:, at : at + 2] += 90
            case 1:
                picture[at : at + 2] += 90
            case _:
                picture[at : at + 4, at : at + 4] += 70
    return pictures, labels.astype(np.int64)


def make_dataset(
    store: Path,
    pictures: NDArray[np.uint8],
    labels: Sequence[int | None],
    *,
    parts: Sequence[Part] | None = None,
) -> DataSource:
    """Put pictures into an object store as a dataset version."""
    objects = ObjectStore(str(store))
    data = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    writer = PackWriter(objects)
    places = [writer.add(one, digest_of(one)) for one in data]
    packs = writer.finish()
    cycle = [Part.TRAIN] * 7 + [Part.VALIDATION] * 2 + [Part.TEST]
    items = tuple(
        Item(
            digest_of(one),
            packs[place.pack_index],
            place.start,
            place.bytes_count,
            parts[index] if parts is not None else cycle[index % len(cycle)],
            f"{index}.png",
            label=label,
        )
        for index, (one, place, label) in enumerate(zip(data, places, labels, strict=True))
    )
    manifest = encode_manifest(
        Manifest(dataset="shapes", kind=ItemKind.IMAGE, classes=CLASSES, items=items)
    )
    digest = digest_of(manifest)
    objects.put(manifest_path(digest), manifest)
    return DataSource(objects=str(store), manifest=digest)


def shapes_dataset(store: Path, count: int = 240) -> DataSource:
    """Put some shapes into an object store."""
    pictures, labels = shapes(count)
    return make_dataset(store, pictures, [int(label) for label in labels])


def make_spec(data: DataSource, **more: object) -> TrainSpec:
    """Return a small run; `more` replaces fields."""
    spec = TrainSpec(
        run_id="run-1",
        model=MODEL,
        network=NETWORK,
        data=data,
        recipe=RECIPE,
        device="cpu",
        is_explained=False,
    )
    return msgspec.structs.replace(spec, **more)


def recipe(**more: object) -> Recipe:
    """Return the small recipe; `more` replaces fields."""
    return msgspec.structs.replace(RECIPE, **more)


def make_run(folder: Path, spec: TrainSpec) -> RunAt:
    """Make a run's folder."""
    folder.mkdir(parents=True)
    (folder / SPEC).write_bytes(msgspec.json.encode(spec))
    return RunAt(folder)
