"""Every method as a whole run, from job.json to its result, and gone on with after a stop."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

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
from cloud_hub.training.trainer.run_files import Evaluated, Started
from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    Augmentation,
    ContrastiveMethod,
    DataSource,
    DistillationMethod,
    GenerativeMethod,
    LowRankTrained,
    MaskedMethod,
    OptimiserName,
    PartTrained,
    PseudoLabelMethod,
    Start,
    TrainSpec,
)
from cloud_hub.training.trainer.torch_run import run
from shared.model.network import ConvolutionNetwork, NetworkSpec, RepairNetwork, WindowNetwork
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.model.torch_networks import build_network
from shared.model.weights import decode_weights, encode_weights
from shared.release.digest import digest_of
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
NORMED = NetworkSpec(
    architecture=ConvolutionNetwork(channels=(8, 8), hidden=16, has_batch_norm=True)
)
REPAIR = NetworkSpec(architecture=RepairNetwork(channels=(8, 16)))
PICTURES_AGAIN = msgspec.structs.replace(
    MODEL,
    task=Task.ANOMALY,
    output=OutputSpec(decoder=Decoder.RECONSTRUCTION, classes=MODEL.output.classes),
)
WAVES = ModelSpec(
    model="waves",
    task=Task.CLASSIFICATION,
    input=WindowInput(samples=32, channels=2),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=("slow", "fast")),
)
AUGMENTED = recipe(
    epochs=4.0, augmentation=Augmentation(shift=0.1, noise=0.1), optimiser=OptimiserName.ADAMW
)
AUGMENTED = msgspec.structs.replace(AUGMENTED, learning_rate=0.005)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return shapes_dataset(tmp_path_factory.mktemp("objects"))


def run_at(folder: Path, spec: TrainSpec) -> RunAt:
    at = make_run(folder, spec)
    if isinstance(spec.method, DistillationMethod):
        write_weights(at.folder / "teacher.npz", NORMED)
    return at


def write_weights(path: Path, network: NetworkSpec, model: ModelSpec = MODEL) -> None:
    state = build_network(network, model, seed=9).state_dict()
    path.write_bytes(encode_weights({name: tensor.numpy() for name, tensor in state.items()}))


def waves_dataset(store: Path) -> DataSource:
    """Put slow and fast waves into an object store; every other one is not labelled."""
    luck = np.random.default_rng(0)
    objects, time = ObjectStore(str(store)), np.arange(32)[:, None]
    writer, places, packed = PackWriter(objects), [], []
    for index in range(160):
        phase, speed = luck.uniform(0, 6, (1, 2)), 0.2 + 0.3 * (index % 2)
        window = np.sin(speed * time + phase) + 0.1 * luck.standard_normal((32, 2))
        packed.append(window.astype("<f4").tobytes())
        places.append(writer.add(packed[-1], digest_of(packed[-1])))
    packs = writer.finish()
    items = tuple(
        Item(
            digest_of(one),
            packs[place.pack_index],
            place.start,
            place.bytes_count,
            Part.VALIDATION if index % 5 == 0 else Part.TRAIN,
            f"{index}",
            label=index % 2 if index % 4 < 2 else None,
        )
        for index, (one, place) in enumerate(zip(packed, places, strict=True))
    )
    manifest = encode_manifest(
        Manifest(
            dataset="waves",
            kind=ItemKind.WINDOW,
            classes=("slow", "fast"),
            items=items,
            window_shape=(32, 2),
        )
    )
    objects.put(manifest_path(digest_of(manifest)), manifest)
    return DataSource(objects=str(store), manifest=digest_of(manifest))


@pytest.mark.parametrize(
    ("changes", "value_min"),
    [
        ({"method": AdversarialMethod(epsilon=4.0, step=2.0, steps=2)}, 0.6),
        ({"method": DistillationMethod(teacher=NORMED, soft_share=0.1)}, 0.6),
        ({"method": ContrastiveMethod(projection=16)}, -4.2),
        ({"method": PseudoLabelMethod(threshold=0.8)}, 0.6),
        ({"model": PICTURES_AGAIN, "network": REPAIR, "method": GenerativeMethod()}, -0.3),
    ],
    ids=["adversarial", "distillation", "contrastive", "pseudo-label", "gan"],
)
def test_a_run_stopped_in_the_middle_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, data: DataSource, changes: dict[str, object], value_min: float
) -> None:
    fields: dict[str, object] = {"network": NORMED, "recipe": AUGMENTED, **changes}
    torch.manual_seed(12345)  # What was drawn before must not matter
    unbroken = run_at(tmp_path / "unbroken", make_spec(data, **fields))
    assert run(unbroken.spec_path, {}) == 0
    print(f"value {unbroken.result.value:.3f}, {unbroken.result.metrics}")
    assert unbroken.result.value > value_min

    at = run_at(tmp_path / "run", make_spec(data, **fields))
    (at.folder / "stop").touch()
    assert run(at.spec_path, {}) == 0
    assert at.result.is_stopped
    (at.folder / "stop").unlink()
    (at.folder / "result.json").unlink()
    assert run(at.spec_path, {}) == 0
    assert at.events(Started)[1].resumed_step == 1
    last = [done.events(Evaluated)[-1].metrics for done in (at, unbroken)]
    assert last[0] == last[1]


def test_masked_pretraining_takes_windows_without_labels(tmp_path: Path) -> None:
    network = NetworkSpec(architecture=WindowNetwork(channels=(8,), hidden=16))
    source = waves_dataset(tmp_path / "objects")
    spec = make_spec(
        source,
        model=WAVES,
        network=network,
        method=MaskedMethod(span=4),
        recipe=recipe(epochs=20.0, learning_rate=0.01, optimiser=OptimiserName.ADAMW),
    )
    at = run_at(tmp_path / "run", spec)
    assert run(at.spec_path, {}) == 0
    evaluated = at.events(Evaluated)
    assert at.events(Started)[0].items_by_part == {"train": 128, "validation": 32, "test": 0}
    assert evaluated[0].value == -evaluated[0].metrics["loss"]
    assert at.result.metrics["loss"] < 0.7 * evaluated[0].metrics["loss"]


@pytest.mark.parametrize(
    "trained",
    [PartTrained(prefixes=("1.",)), LowRankTrained(rank=2, full=("1.3.",))],
    ids=["part", "lora"],
)
def test_what_is_frozen_comes_out_as_it_went_in(
    tmp_path: Path, data: DataSource, trained: PartTrained | LowRankTrained
) -> None:
    spec = make_spec(
        data,
        network=NORMED,
        trained=trained,
        start=Start(weights="start.npz"),
        recipe=recipe(epochs=10.0, weight_decay=0.01, average_decay=0.9),
    )
    at = make_run(tmp_path / "run", spec)
    write_weights(at.folder / "start.npz", NORMED)
    assert run(at.spec_path, {}) == 0
    started = at.events(Started)[0]
    assert started.trained_count < started.parameters_count
    before = decode_weights((at.folder / "start.npz").read_bytes())
    after = decode_weights((at.folder / at.result.weights).read_bytes())
    assert list(after) == list(before)
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith(("0.1.", "0.5."))}
    if isinstance(trained, PartTrained):
        frozen = {name for name in before if name.startswith("0.")}
        assert kept == frozen
    else:
        assert frozen | {"0.0.bias", "0.4.bias", "1.1.bias"} == kept
        change = after["1.1.weight"] - before["1.1.weight"]
        assert np.linalg.matrix_rank(change.astype(np.float64), tol=1e-4) == 2
    assert at.result.value > at.events(Evaluated)[0].value or at.result.value > 0.8


def test_a_prefix_that_fits_nothing_fails_the_run_with_the_ones_there_are(
    tmp_path: Path, data: DataSource
) -> None:
    at = make_run(tmp_path / "run", make_spec(data, trained=PartTrained(prefixes=("body.",))))
    assert run(at.spec_path, {}) != 0
    assert at.error["code"] == "training.prefix"
    assert "1.3." in at.error["remedy"]


def test_pseudo_labels_use_the_unlabelled_part(tmp_path: Path) -> None:
    pictures, labels = shapes(240)
    known = [
        int(label) if index % 4 == 0 or index % 10 >= 7 else None
        for index, label in enumerate(labels)
    ]
    source = make_dataset(tmp_path / "objects", pictures, known)
    spec = make_spec(source, network=NORMED, method=PseudoLabelMethod(), recipe=AUGMENTED)
    at = run_at(tmp_path / "run", spec)
    assert run(at.spec_path, {}) == 0
    assert at.events(Started)[0].items_by_part["train"] == 168
