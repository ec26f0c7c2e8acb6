"""One training run from job.json to its result: what it writes, and what it refuses."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from cloud_hub.datasets.manifest import Part
from cloud_hub.training.trainer.file_run_folder import RunFolder
from cloud_hub.training.trainer.run_files import (
    EXIT_REFUSED,
    Evaluated,
    Noted,
    Progressed,
    RunResult,
    Saved,
    Started,
)
from cloud_hub.training.trainer.spec import (
    Augmentation,
    DataSource,
    OptimiserName,
    Precision,
    Start,
    TrainSpec,
)
from cloud_hub.training.trainer.torch_device import is_out_of_memory, require_gpus
from cloud_hub.training.trainer.torch_run import run
from shared.errors import RefusedError
from shared.exit_codes import UNAVAILABLE
from shared.model.network import AutoencoderNetwork, ConvolutionNetwork, NetworkSpec
from shared.model.weights import decode_weights, digest_weights, encode_weights
from tests.support.small_disk import small_disk
from tests.support.training_runs import (
    MODEL,
    RunAt,
    make_dataset,
    make_run,
    make_spec,
    recipe,
    shapes,
    shapes_dataset,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return shapes_dataset(tmp_path_factory.mktemp("objects"))


def _done(at: RunAt) -> RunResult:
    assert run(at.spec_path, {}) == 0
    return at.result


def test_a_run_learns_and_leaves_weights_metrics_and_events(
    tmp_path: Path, data: DataSource
) -> None:
    wanted = recipe(
        epochs=30.0,
        optimiser=OptimiserName.MUON,
        augmentation=Augmentation(shift=0.1, has_flip=True),
        average_decay=0.9,
        gradient_norm_max=5.0,
    )
    at = make_run(tmp_path / "run", make_spec(data, recipe=wanted))
    result = _done(at)
    assert result.value > 0.8
    assert result.metrics["accuracy"] == result.value
    assert result.test_metrics["accuracy"] > 0.6
    assert (result.steps, result.epochs) == (30 * 6, 30.0)
    weights = decode_weights((at.folder / result.weights).read_bytes())
    assert digest_weights(weights) == result.weights_digest
    (started,) = at.events(Started)
    assert started.items_by_part == {"train": 168, "validation": 48, "test": 24}
    assert started.trained_count == started.parameters_count > 1000
    best = max(event.value for event in at.events(Evaluated))
    assert best == result.value
    assert len(at.events(Evaluated)) == len(at.events(Progressed)) == 30
    assert len(at.events(Saved)) == 30
    assert not list(at.folder.glob("state-*"))
    before = {path: path.stat().st_mtime_ns for path in at.folder.iterdir()}
    assert run(at.spec_path, {}) == 0
    assert {path: path.stat().st_mtime_ns for path in at.folder.iterdir()} == before


def test_the_same_seed_gives_the_same_weights_and_another_others(
    tmp_path: Path, data: DataSource
) -> None:
    digests = [
        _done(make_run(tmp_path / f"run-{i}", make_spec(data, seed=seed))).weights_digest
        for i, seed in enumerate((5, 5, 6))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_bf16_trains_too(tmp_path: Path, data: DataSource) -> None:
    at = make_run(
        tmp_path / "run", make_spec(data, recipe=recipe(precision=Precision.BF16, epochs=8.0))
    )
    assert _done(at).value > 0.5
    assert at.events(Started)[0].precision == "bf16"


def test_stop_ends_after_a_step_and_what_follows_is_as_if_it_had_not(
    tmp_path: Path, data: DataSource
) -> None:
    unbroken = _done(make_run(tmp_path / "unbroken", make_spec(data)))
    at = make_run(tmp_path / "run", make_spec(data))
    (at.folder / "stop").touch()
    stopped = _done(at)
    assert (stopped.steps, stopped.is_stopped) == (1, True)
    assert len(list(at.folder.glob("state-*"))) == 1
    (at.folder / "stop").unlink()
    (at.folder / "result.json").unlink()
    resumed = _done(at)
    assert at.events(Started)[1].resumed_step == 1
    assert not resumed.is_stopped
    # The evaluation at the stop may have kept weights of step 1; those of the end are the same.
    last = [event for event in at.events(Evaluated) if event.step == resumed.steps]
    wanted = make_run(tmp_path / "again", make_spec(data))
    assert _done(wanted).weights_digest == unbroken.weights_digest
    assert last[0].metrics == wanted.events(Evaluated)[-1].metrics


def test_damaged_and_strange_states_are_passed_over_and_it_is_said(
    tmp_path: Path, data: DataSource
) -> None:
    spec = make_spec(data)
    at = make_run(tmp_path / "run", spec)
    (at.folder / "stop").touch()
    _done(at)
    (at.folder / "stop").unlink()
    (at.folder / "result.json").unlink()
    (state,) = at.folder.glob("state-*")
    whole = state.read_bytes()
    state.with_name("state-0000000009.pt").write_bytes(whole[:-100])
    state.with_name("state-0000000008.pt").write_bytes(b"something else")
    with (at.folder / "events.jsonl").open("ab") as events:
        events.write(b'{"event":"prog')  # Torn by a death
    _done(at)
    assert at.events(Started)[-1].resumed_step == 1
    notes = [event.text for event in at.events(Noted)]
    assert any("state-0000000009.pt is passed over" in text for text in notes)
    assert any("state-0000000008.pt is passed over" in text for text in notes)
    assert any("passed over" in text for text in at.result.notes)
    other = make_run(tmp_path / "other", msgspec.structs.replace(spec, seed=9))
    (other.folder / state.name).write_bytes(whole)
    _done(other)
    assert other.events(Started)[0].resumed_step is None
    assert "another job.json" in other.result.notes[0]


def test_training_that_gets_no_better_ends_early(tmp_path: Path, data: DataSource) -> None:
    wanted = recipe(epochs=50.0, patience_epochs=2, learning_rate=1e-9, weight_decay=0.0)
    result = _done(make_run(tmp_path / "run", make_spec(data, recipe=wanted)))
    assert (result.epochs, result.best_epoch) == (3.0, 1.0)
    assert "Ended early after epoch 3" in result.notes[0]


def test_without_a_validation_part_the_training_loss_chooses(tmp_path: Path) -> None:
    pictures, labels = shapes(60)
    source = make_dataset(
        tmp_path / "store", pictures, [int(label) for label in labels], parts=[Part.TRAIN] * 60
    )
    at = make_run(tmp_path / "run", make_spec(source))
    result = _done(at)
    assert result.value == -result.metrics["loss"]
    assert result.test_metrics == {}
    assert "no validation part" in result.notes[0]


def test_unlabelled_items_are_left_out_and_items_max_draws_some(tmp_path: Path) -> None:
    pictures, labels = shapes(60)
    some = [int(label) if i % 2 else None for i, label in enumerate(labels)]
    parts = [Part.TRAIN] * 40 + [Part.VALIDATION] * 20
    source = make_dataset(tmp_path / "store", pictures, some, parts=parts)
    at = make_run(tmp_path / "run", make_spec(source))
    _done(at)
    assert at.events(Started)[0].items_by_part == {"train": 20, "validation": 10, "test": 0}
    fewer = msgspec.structs.replace(source, items_max=7)
    at = make_run(tmp_path / "fewer", make_spec(fewer))
    _done(at)
    assert at.events(Started)[0].items_by_part["train"] == 7


def test_weights_go_on_and_transfer_takes_what_fits(tmp_path: Path, data: DataSource) -> None:
    first = make_run(tmp_path / "first", make_spec(data))
    _done(first)
    weights = (first.folder / "best.npz").read_bytes()
    on = make_run(tmp_path / "on", make_spec(data, start=Start(weights="start.npz")))
    (on.folder / "start.npz").write_bytes(weights)
    assert "all 8 arrays" in _done(on).notes[0]
    narrow = NetworkSpec(architecture=ConvolutionNetwork(channels=(8, 8), hidden=12))
    start = Start(weights="start.npz", is_partial=True)
    part = make_run(tmp_path / "part", make_spec(data, start=start, network=narrow))
    (part.folder / "start.npz").write_bytes(weights)
    assert "took 4 of 8 arrays" in _done(part).notes[0]


def _not_json(at: RunAt, _: TrainSpec) -> None:
    at.spec_path.write_bytes(b"{")


def _unknown_key(at: RunAt, _: TrainSpec) -> None:
    at.spec_path.write_bytes(at.spec_path.read_bytes().replace(b'"seed"', b'"sed"'))


def _no_fit(at: RunAt, spec: TrainSpec) -> None:
    _rewrite(at, spec, network=NetworkSpec(architecture=AutoencoderNetwork()))


def _misfit(at: RunAt, spec: TrainSpec) -> None:
    (at.folder / "start.npz").write_bytes(encode_weights({"0.weight": np.zeros(3, np.float32)}))
    _rewrite(at, spec, start=Start(weights="start.npz"))


def _no_weights(at: RunAt, spec: TrainSpec) -> None:
    _rewrite(at, spec, start=Start(weights="start.npz"))


def _bad_weights(at: RunAt, spec: TrainSpec) -> None:
    (at.folder / "start.npz").write_bytes(b"no weights at all")
    _rewrite(at, spec, start=Start(weights="start.npz"))


def _no_manifest(at: RunAt, spec: TrainSpec) -> None:
    _rewrite(at, spec, data=msgspec.structs.replace(spec.data, manifest="0" * 64))


def _infinity(at: RunAt, spec: TrainSpec) -> None:
    _rewrite(at, spec, recipe=recipe(learning_rate=100.0, warmup_share=0.0, epochs=30.0))


def _no_classes(at: RunAt, spec: TrainSpec) -> None:
    output = msgspec.structs.replace(MODEL.output, classes=("x", "y", "z"))
    _rewrite(at, spec, model=msgspec.structs.replace(MODEL, output=output))


def _damaged_pack(at: RunAt, spec: TrainSpec) -> None:
    store = at.folder / "store"
    pictures, labels = shapes(30)
    _rewrite(at, spec, data=make_dataset(store, pictures, [int(label) for label in labels]))
    (pack,) = (store / "datasets" / "packs").iterdir()
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)


def _no_items(at: RunAt, spec: TrainSpec) -> None:
    pictures, _ = shapes(30)
    _rewrite(at, spec, data=make_dataset(at.folder / "store", pictures, [None] * 30))


def _gpu(at: RunAt, spec: TrainSpec) -> None:
    _rewrite(at, spec, device="cuda")


def _rewrite(at: RunAt, spec: TrainSpec, **more: object) -> None:
    at.spec_path.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, **more)))


REFUSALS: tuple[tuple[Callable[[RunAt, TrainSpec], None], str], ...] = (
    (_not_json, "training.spec"),
    (_unknown_key, "training.spec"),
    (_no_fit, "network.unfit"),
    (_misfit, "weights.misfit"),
    (_no_weights, "weights.missing"),
    (_bad_weights, "weights.invalid"),
    (_no_manifest, "dataset.damaged"),
    (_no_classes, "dataset.classes"),
    (_damaged_pack, "dataset.damaged"),
    (_no_items, "training.no_items"),
    (_infinity, "training.diverged"),
)


@pytest.mark.parametrize(("spoil", "code"), REFUSALS, ids=[s.__name__ for s, _ in REFUSALS])
def test_what_can_never_work_is_refused_with_its_reason(
    tmp_path: Path,
    data: DataSource,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[RunAt, TrainSpec], None],
    code: str,
) -> None:
    spec = make_spec(data)
    at = make_run(tmp_path / "run", spec)
    spoil(at, spec)
    assert run(at.spec_path, {}) == EXIT_REFUSED
    assert at.error["code"] == code
    assert at.error["remedy"]
    assert capsys.readouterr().err.startswith(f"{code}: ")
    assert not (at.folder / "result.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, data: DataSource) -> None:
    at = make_run(tmp_path / "run", make_spec(data, device="cuda"))
    assert run(at.spec_path, {}) == EXIT_REFUSED
    assert at.error["code"] == "training.no_gpu"


def test_more_processes_than_gpus_are_refused_with_both_numbers() -> None:
    require_gpus(2, 2)
    with pytest.raises(RefusedError, match="4 processes on this machine, and there are 2 GPUs"):
        require_gpus(4, 2)


def test_a_refusal_is_forgotten_when_the_run_is_tried_again(
    tmp_path: Path, data: DataSource
) -> None:
    spec = make_spec(data)
    at = make_run(tmp_path / "run", spec)
    _no_manifest(at, spec)
    assert run(at.spec_path, {}) == EXIT_REFUSED
    _rewrite(at, spec)
    _done(at)
    assert not (at.folder / "error.json").exists()


def test_two_trainers_never_work_in_one_folder(
    tmp_path: Path, data: DataSource, capsys: pytest.CaptureFixture[str]
) -> None:
    at = make_run(tmp_path / "run", make_spec(data))
    other = RunFolder(at.folder)
    other.hold()
    assert run(at.spec_path, {}) == UNAVAILABLE
    assert "training.running" in capsys.readouterr().err
    assert not (at.folder / "error.json").exists()
    other.release()
    _done(at)


def test_a_full_disk_is_told_and_nothing_half_written_counts(
    tmp_path: Path, data: DataSource
) -> None:
    # 140,000 weights, as many momenta, and the best of them: the first state does not fit.
    network = NetworkSpec(architecture=ConvolutionNetwork(channels=(8, 8), hidden=4000))
    spec = make_spec(data, network=network)
    with small_disk(tmp_path / "disk", size_bytes=1 << 20) as disk:
        at = make_run(disk.folder / "run", spec)
        assert run(at.spec_path, {}) == EXIT_REFUSED
        assert at.error["code"] == "disk.full"
        assert sorted(p.name for p in at.folder.iterdir()) == [
            ".lock",
            "error.json",
            "events.jsonl",
            "job.json",
        ]
        (at.folder / "error.json").unlink()
        disk.fill()
        assert run(at.spec_path, {}) == EXIT_REFUSED
        assert not (at.folder / "error.json").exists()  # Not even that fits
        disk.empty()


def test_memory_that_runs_out_is_known_as_such() -> None:
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
