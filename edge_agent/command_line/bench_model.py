"""run_bench: how fast a model is on this device, in every way it could be run, and which is chosen.

1. What is timed and how is the Fitter's business: the same as before a release goes live.
2. A file by itself has no golden set and no stated agreement: it proves what it computed itself;
   an .npz of the same name beside it is taken where there is one.
3. A model of texts is timed on TEXT, by its tokenizer where it has one.
4. A release of this device is opened where it settled. Only the chosen variant is still there; the
   whole table, as it was measured then, is `told`.

What must not live here: printing (bench_text.py).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.command_line.model_files import read_spec, tokenize_beside, unreadable
from edge_agent.inference.fit import FULL_PRECISION
from edge_agent.inference.session import ModelSession
from edge_agent.inference.settings import InferenceSettings
from edge_agent.updates.file_fit import FileFits
from edge_agent.updates.file_journal import FileJournal
from edge_agent.updates.fit_building import build_fitter
from edge_agent.updates.fitting import Fitter
from edge_agent.updates.release_source import FetchedRelease, FetchedVariant
from edge_agent.updates.repository_source import reopen_release
from edge_agent.uplink.procfs_machine import read_hardware
from shared.clock import Clock, SystemClock
from shared.errors import ContractError, RefusedError
from shared.model.preprocess import Tokenize, to_tensor
from shared.model.spec import ModelSpec, TextInput
from shared.pipeline.pipeline import PipelineLimits
from shared.release.digest import digest_of_file
from shared.release.golden import GoldenSet, encode_golden
from shared.release.manifest import VARIANTS_MAX, FileEntry, Manifest, Variant, file_path
from shared.wire.fit import FitReport

GOLDEN_ITEMS = 4
TEXT = "Pump 3 reports 71.5 degrees at the bearing; the pressure fell twice during the night shift."
RELEASES = "releases"
JOURNALS = "journal"

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class BenchSummary:
    """What `edge-agent bench` has to say."""

    name: str
    measured: FitReport
    refusal: str = ""  # Why nothing was chosen
    told: FitReport | None = None  # What was measured when the release came


def run_bench(
    model: Path | None,
    spec: Path | None,
    *,
    variants: Path | None = None,
    tokenizer: Path | None = None,
    release: str = "",
    state: Path,
    clock: Clock | None = None,
) -> BenchSummary:
    """Return the table of a file, of every .onnx in a folder, or of a release on this device.

    Args: tokenizer: of a model of texts that has one, None: tokenizer.json beside the first file;
    release: "digits:2"; state: the agent's state folder.

    Raises ContractError `bench.nothing`, `config.missing`, `spec.…`, `tokenizer.…`; RefusedError
    `release.unknown`.
    """
    clock = clock or SystemClock()
    settings = InferenceSettings()
    fitter = build_fitter(settings, lambda _model: PipelineLimits(), read_hardware(), clock)
    if release:
        return _bench_release(release, state, fitter)
    files = _files(model, variants)
    if spec is None:
        raise ContractError(
            "bench.nothing", "A file needs its spec.", remedy="Name it with --spec spec.toml."
        )
    model_spec = read_spec(spec)
    tokenize = tokenize_beside(files[0], model_spec, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        fetched = _as_release(files, model_spec, fitter, Path(folder), tokenize)
        return _measured(", ".join(path.name for path in files), fetched, fitter)


def _files(model: Path | None, variants: Path | None) -> tuple[Path, ...]:
    found = sorted(variants.glob("*.onnx")) if variants is not None else []
    if variants is not None and not found:
        raise ContractError(
            "bench.nothing",
            f"There is no .onnx file in the folder {variants}.",
            remedy="Name a folder that has some.",
        )
    files = tuple(dict.fromkeys([*([model] if model else []), *found]))
    if not files:
        raise ContractError(
            "bench.nothing",
            "There is nothing to time.",
            remedy="Name a model.onnx, a folder of them with --variants, or a --release.",
        )
    for path in files:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise ContractError(
                "bench.nothing",
                f"{path} {what}.",
                remedy="Name one .onnx file; --variants takes a folder of them.",
            )
    return files[:VARIANTS_MAX]


def _bench_release(release: str, state: Path, fitter: Fitter) -> BenchSummary:
    model, _, version = release.partition(":")
    journals = state / JOURNALS
    journal = FileJournal(journals).read(model) if model and journals.is_dir() else None
    settled = journal.settled if journal else None
    if settled is None or version not in ("", str(settled.version)):
        runs = f"{model}:{settled.version}" if settled else "none of this model"
        raise RefusedError(
            "release.unknown",
            f"The release {release} has not settled on this device.",
            remedy=f"What has is {runs}.",
        )
    folder = state / RELEASES / model / settled.slot
    told = FileFits().read(folder, settled.manifest_digest)
    return _measured(f"{model}:{settled.version}", reopen_release(folder), fitter, told)


def _measured(
    name: str, fetched: FetchedRelease, fitter: Fitter, told: FitReport | None = None
) -> BenchSummary:
    measured = fitter.measure(fetched)
    if measured.session is not None:
        measured.session.close()
    refusal = str(measured.error) if measured.error else ""
    return BenchSummary(name, measured.report, refusal, told)


def _as_release(
    files: Sequence[Path], spec: ModelSpec, fitter: Fitter, folder: Path, tokenize: Tokenize
) -> FetchedRelease:
    """Return files as a release of variants; the first counts as fp32 unless one is called so."""
    has_fp32 = any(path.stem == FULL_PRECISION for path in files)
    candidates = []
    for index, path in enumerate(files):
        name = FULL_PRECISION if index == 0 and not has_fp32 else path.stem[:120]
        golden = path.with_suffix(".npz")
        if not golden.is_file():
            golden = folder / f"{index}.npz"
            golden.write_bytes(_own_golden(path, spec, fitter, tokenize))
        artifact, proof = _entry(path, spec.model), _entry(golden, spec.model)
        variant = Variant(precision=name, artifact=artifact, golden=proof)
        candidates.append(FetchedVariant(variant, path, golden))
    first, *others = candidates
    manifest = Manifest(
        model=spec.model,
        version=1,
        lineage_id="bench",
        created_ms=0,
        spec=spec,
        variants=tuple(candidate.variant for candidate in candidates),
    )
    return FetchedRelease(
        manifest=manifest,
        manifest_digest=first.variant.artifact.digest,
        variant=first.variant,
        artifact_path=first.artifact_path,
        golden_path=first.golden_path,
        others=tuple(others),
    )


def _own_golden(path: Path, spec: ModelSpec, fitter: Fitter, tokenize: Tokenize) -> bytes:
    """Return a golden set of what the model itself computes. Raises what loading raises."""
    session = next(iter(fitter.backends.values()))(path, spec, 1)
    try:
        inputs = _drawn(session, tokenize)
        runs = [
            tuple(np.array(output) for output in session.run(inputs[i : i + 1]))
            for i in range(GOLDEN_ITEMS)
        ]
    finally:
        session.close()
    outputs = tuple(np.concatenate(each) for each in zip(*runs, strict=True))
    return encode_golden(GoldenSet(inputs, outputs))


def _drawn(session: ModelSession, tokenize: Tokenize) -> Array:
    """Return inputs of the model's shape: noise, or the same text again and again."""
    if isinstance(session.spec.input, TextInput):
        item = to_tensor(tokenize(TEXT), session.spec, dtype=session.input_dtype)
        return np.repeat(item, GOLDEN_ITEMS, axis=0)
    shape, dtype = (GOLDEN_ITEMS, *session.spec.input_shape[1:]), session.input_dtype
    random = np.random.default_rng(0)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    return np.zeros(shape, dtype)


def _entry(path: Path, model: str) -> FileEntry:
    try:
        digest, file_bytes = digest_of_file(path), path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    name = path.suffix.removeprefix(".")
    return FileEntry(path=file_path(model, 1, name), digest=digest, file_bytes=max(1, file_bytes))
