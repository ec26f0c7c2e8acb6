"""Workshop: datasets, training runs and the gate's measuring on a temporary disk.

Everything goes the product's way: sources through the importing process, TrainSpecs through the
trainer's process, weights through the exporting and the examining process. What is here only puts
these in a row, and counts what each costs.
"""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from cloud_hub.candidates.dataset_evaluation import DatasetEvaluation
from cloud_hub.candidates.evaluation_sets import EvaluationSets
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_verdict import Background, Judgement, judge
from cloud_hub.candidates.process_examiner import Beside, Examined, examine
from cloud_hub.candidates.process_exporter import Exported, tune
from cloud_hub.candidates.variant_choice import wants_tuning
from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import Manifest
from cloud_hub.datasets.service import DatasetService
from cloud_hub.explain.report import Report, decode_report
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from cloud_hub.training.trainer.run_files import (
    BEST,
    EVENTS,
    MODULE,
    REPORT,
    RESULT,
    SPEC,
    WEIGHTS,
    RunResult,
    Started,
    decode_event,
)
from cloud_hub.training.trainer.spec import TrainSpec
from shared.clock import SystemClock
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.release.digest import digest_of

BY = "bench"


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took: all processes of it."""

    cpu_s: float
    wall_s: float

    def told(self) -> dict[str, float]:
        """Return it for JSON."""
        return {"cpu_s": round(self.cpu_s, 2), "wall_s": round(self.wall_s, 2)}


class Meter:
    """Counts from its making: this process's and its finished children's processor time."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), _cpu_s()

    def read(self) -> Cost:
        """Return what was spent until now."""
        return Cost(_cpu_s() - self._cpu_s, time.perf_counter() - self._wall_s)


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run that is done."""

    result: RunResult
    started: Started
    weights: bytes  # .npz
    cost: Cost  # Of the whole process, start and end included
    report: Report | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate measured of a checkpoint and says of it."""

    judgement: Judgement
    forms: dict[str, bytes]  # ONNX files by the form's name
    cost: Cost
    spec: ModelSpec  # Of all forms: preprocessing may have been folded into them
    tuning_error: str = ""


class Workshop:
    """See the module's docstring."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: an empty one, which the caller removes."""
        self._folder = folder
        self._database = Database(f"sqlite:///{folder}/hub.db")
        self._database.migrate()
        clock = SystemClock()
        self.objects = ObjectStore(str(folder / "objects"))
        self.datasets = DatasetService(
            self._database, self.objects, clock, folder=folder / "datasets"
        )
        self.datasets.open()
        self._sets = EvaluationSets(self._database, self.objects, clock)
        self._evaluation = DatasetEvaluation(self.datasets, self._sets)
        self.imports: dict[str, dict[str, float]] = {}

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def add(self, name: str, source: Path, rule: ImportRule | None = None) -> DatasetVersion:
        """Return the dataset version that a source makes."""
        meter = Meter()
        made = self.datasets.import_file(name, source, rule, by=BY)
        cost = meter.read()
        self.imports[name] = {
            **cost.told(),
            "items": made.version.items_count,
            "broken": made.broken_count,
            "duplicates": made.duplicates_count,
        }
        tell(f"{name}: {made.version.items_count} items imported, {cost.cpu_s:.1f} CPU s")
        return made.version

    def manifest(self, version: DatasetVersion) -> Manifest:
        """Return a version's manifest."""
        return self.datasets.manifest(version)

    def evaluation_set(self, version: DatasetVersion, spec: ModelSpec, *, items_max: int) -> bytes:
        """Return the gate's evaluation set of a version's test part, an .npz."""
        return self._sets.read(self._evaluation.set(version, spec, items_max=items_max))

    def train(self, spec: TrainSpec, *, start: bytes = b"") -> TrainedRun:
        """Return what the trainer's process makes of a spec; `start` are weights to begin with."""
        folder = self._folder / "runs" / spec.run_id
        folder.mkdir(parents=True)
        if start:
            (folder / WEIGHTS).write_bytes(start)
        (folder / SPEC).write_bytes(msgspec.json.encode(spec))
        meter = Meter()
        done = subprocess.run(
            [sys.executable, "-m", MODULE, "--spec", str(folder / SPEC)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": str(spec.recipe.threads or 1)},
            check=False,
        )
        cost = meter.read()
        if done.returncode:
            raise SystemExit(f"{spec.run_id}: {done.stderr.decode(errors='replace')[-2000:]}")
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=RunResult)
        events = map(decode_event, (folder / EVENTS).read_bytes().splitlines())
        report = folder / REPORT
        tell(
            f"{spec.run_id}: {result.value:.4f} at epoch {result.best_epoch:g} of "
            f"{result.epochs:g}, {result.items_per_s:.0f} items/s, {cost.cpu_s:.1f} CPU s"
        )
        return TrainedRun(
            result=result,
            started=next(event for event in events if isinstance(event, Started)),
            weights=(folder / BEST).read_bytes(),
            cost=cost,
            report=decode_report(report.read_bytes()) if report.exists() else None,
        )


def judge_forms(
    spec: ModelSpec,
    network: NetworkSpec,
    weights: bytes,
    made: Exported,
    evaluation: bytes | None,
    settings: GateSettings,
) -> Judged:
    """Return what CandidateService.judge_trained says of an export, with the files of all forms."""
    meter = Meter()
    beside = Beside(evaluation_bytes=evaluation)
    examined = examine(made.model_bytes, spec, None, settings, beside)
    facts, tuning_error = examined.examination.evaluation, ""
    if facts and evaluation and wants_tuning(facts, settings.variants):
        tuned = tune(spec, network, weights, evaluation, settings.export)
        tuning_error = tuned.error
        if tuned.model_bytes:
            beside = replace(beside, tuned_bytes=tuned.model_bytes)
            examined = examine(made.model_bytes, spec, None, settings, beside)
    digest = digest_of(evaluation) if evaluation else ""
    background = Background(evaluation_digest=digest, parity=made.parity)
    judgement = judge(examined.examination, spec, settings, background)
    published = examined.examination.spec or spec
    return Judged(judgement, _files(examined), meter.read(), published, tuning_error)


def tell(text: str) -> None:
    """Say to people how far it is; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """Return what figures that are times must be read with."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    }


def _files(examined: Examined) -> dict[str, bytes]:
    further = {name: form.model_bytes for name, form in examined.further.items()}
    return {"fp32": examined.model_bytes, **further}


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
