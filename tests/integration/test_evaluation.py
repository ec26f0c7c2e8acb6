"""Real networks, real items: what the gate says of a model beside the release before it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_hub.candidates.candidate import Answer, GateRefusedError, Verdict
from cloud_hub.candidates.torch_export import export_onnx
from cloud_hub.candidates.torch_weights import load_network
from cloud_hub.releases.release import Release
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database, sqlite_url
from shared.model.network import parse_network
from shared.model.spec import parse_spec
from tests.support.release_hub import open_hub
from tests.support.trained_digits import (
    NETWORK,
    SPEC,
    Digits,
    evaluation_npz,
    train_digits,
    weights_npz,
)

pytestmark = pytest.mark.slow  # Exports and examines in processes of their own.
Weights = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return train_digits()


@pytest.fixture(scope="module")
def weights(digits: Digits) -> dict[str, Weights]:
    """What was trained, and three things that may become of it."""
    good = digits.weights
    noise = np.random.default_rng(0).standard_normal(good["1.1.weight"].shape)
    swapped = {name: array.copy() for name, array in good.items()}
    for name in ("1.3.weight", "1.3.bias"):
        swapped[name][[8, 9]] = swapped[name][[9, 8]]
    return {
        "good": good,
        "slightly": good | {"1.3.weight": good["1.3.weight"] * np.float32(1.0001)},
        "swapped": swapped,  # Takes eights for nines
        "damaged": good | {"1.1.weight": noise.astype(np.float32)},
    }


@pytest.fixture(scope="module")
def models(weights: dict[str, Weights]) -> dict[str, bytes]:
    """The same as ONNX files, as a person would upload them."""
    spec, network = parse_spec(SPEC), parse_network(NETWORK)
    return {
        name: export_onnx(load_network(network, spec, one, seed=0), spec)
        for name, one in weights.items()
    }


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    """On SQLite alone: what is slow here does not touch the database."""
    (tmp_path / "state").mkdir()
    shutil.copyfile(migrated_sqlite_file, tmp_path / "state" / "hub.db")
    database = Database(sqlite_url(tmp_path / "state"))
    yield open_hub(tmp_path / "state", database)
    database.close()


def upload(hub: ReleaseService, model: bytes) -> Release:
    return hub.add(
        model_bytes=model,
        spec_bytes=SPEC,
        golden_bytes=None,
        metrics={},
        notes="",
        lineage_id=None,
    )


def release(hub: ReleaseService, weights: Weights) -> Release:
    checkpoint = hub.checkpoints.add(
        spec_bytes=SPEC, network_bytes=NETWORK, weights_bytes=weights_npz(weights)
    )
    return hub.add_trained(checkpoint)


def add_set(hub: ReleaseService, digits: Digits, *, count: int = 600) -> None:
    labels = digits.held_labels[:count]
    slices = ["eights" if label in (8, 9) else "others" for label in labels]
    added = hub.evaluation_sets.add(
        "digits", evaluation_npz(digits.held_frames[:count], labels, slices)
    )
    assert added.slices.keys() == {"eights", "others"}


def refused(hub: ReleaseService, model: bytes) -> Verdict:
    with pytest.raises(GateRefusedError) as raised:
        upload(hub, model)
    return raised.value.candidate.verdict


def test_a_checkpoint_is_exported_in_several_forms_and_compared(
    hub: ReleaseService, digits: Digits, weights: dict[str, Weights], models: dict[str, bytes]
) -> None:
    add_set(hub, digits)
    upload(hub, models["good"])
    second = release(hub, weights["slightly"])
    verdict = second.verdict
    assert [row.answer for row in verdict.slices] == [Answer.NOT_WORSE] * 3
    assert verdict.comparison is not None
    assert verdict.comparison.release == "digits:1"
    assert verdict.slices[0].accuracy_new > 0.9
    names = {row.name: row for row in verdict.variants}
    assert set(names) == {"fp32", "int8", "int8-dynamic"}
    assert sum(row.is_chosen for row in verdict.variants) == 1
    assert names["int8"].agreement is not None
    assert names["int8"].agreement > 0.95
    assert names["int8"].artifact_bytes < names["fp32"].artifact_bytes
    newest = hub.checkpoints.newest("digits")
    assert newest is not None
    assert hub.add_trained(newest).version == second.version == 2


def test_uploads_go_through_the_same_comparison(
    hub: ReleaseService, digits: Digits, models: dict[str, bytes]
) -> None:
    add_set(hub, digits)
    assert upload(hub, models["good"]).verdict.slices[0].answer is Answer.FIRST
    verdict = refused(hub, models["damaged"])
    everything = verdict.slices[0]
    assert everything.answer is Answer.WORSE
    assert everything.lost_count > 100
    assert everything.gained_count < everything.lost_count
    assert everything.accuracy_old is not None
    assert everything.accuracy_new - everything.accuracy_old == pytest.approx(
        (everything.gained_count - everything.lost_count) / everything.items_count
    )
    assert f"{everything.lost_count} of {everything.items_count} items" in verdict.reasons[0].text
    assert [one.version for one in hub.releases()] == [1]
    second = upload(hub, models["slightly"])
    assert second.verdict.comparison is not None
    assert second.verdict.comparison.release == "digits:1"
    assert {row.answer for row in second.verdict.slices} == {Answer.NOT_WORSE}


def test_a_model_is_compared_with_the_stable_release(
    hub: ReleaseService, digits: Digits, models: dict[str, bytes]
) -> None:
    """Where a person says what is stable, a newer release is not what is replaced."""
    upload(hub, models["good"])
    upload(hub, models["swapped"])  # Without items nobody can tell that it is worse
    add_set(hub, digits)
    hub.set_channel("digits", "stable", 1)
    verdict = refused(hub, models["damaged"])
    assert verdict.comparison is not None
    assert verdict.comparison.release == "digits:1"
    by_stable = verdict.slices[0].accuracy_old
    hub.set_channel("digits", "stable", 2)
    verdict = refused(hub, models["damaged"])
    assert verdict.comparison is not None
    assert verdict.comparison.release == "digits:2"
    assert by_stable is not None
    assert verdict.slices[0].accuracy_old is not None
    assert verdict.slices[0].accuracy_old < by_stable - 0.1


def test_without_a_stable_release_the_newest_is_replaced(
    hub: ReleaseService, digits: Digits, models: dict[str, bytes]
) -> None:
    upload(hub, models["good"])
    upload(hub, models["swapped"])
    hub.set_channel("digits", "beta", 1)  # No matter: only "stable" says what is in use
    add_set(hub, digits)
    third = upload(hub, models["slightly"])
    assert third.verdict.comparison is not None
    assert third.verdict.comparison.release == "digits:2"
    rows = {row.name: row for row in third.verdict.slices}
    assert rows["eights"].gained_count > 50


def test_one_slice_that_is_worse_refuses_and_is_named(
    hub: ReleaseService, digits: Digits, models: dict[str, bytes]
) -> None:
    """The first release knows all; the second confuses 8 and 9: wrong in one slice only."""
    add_set(hub, digits)
    upload(hub, models["good"])
    verdict = refused(hub, models["swapped"])
    rows = {row.name: row.answer for row in verdict.slices}
    assert rows["eights"] is Answer.WORSE
    assert rows["others"] is Answer.NOT_WORSE
    assert "gate.slice_worse" in [reason.code for reason in verdict.reasons]


def test_a_tiny_set_cannot_tell_and_says_how_many_would(
    hub: ReleaseService, digits: Digits, models: dict[str, bytes]
) -> None:
    first = upload(hub, models["good"])
    assert first.precisions == ("fp32",)
    assert "gate.not_evaluated" in [remark.code for remark in first.verdict.remarks]
    tiny = evaluation_npz(digits.held_frames[:30], digits.held_labels[:30])
    hub.evaluation_sets.add("digits", tiny)
    verdict = refused(hub, models["slightly"])
    assert [reason.code for reason in verdict.reasons] == ["gate.cannot_tell"]
    assert verdict.slices[0].items_needed is not None
    assert verdict.slices[0].items_needed > 100


def test_no_device_can_read_checkpoints_or_evaluation_sets(
    hub: ReleaseService, digits: Digits
) -> None:
    add_set(hub, digits)
    checkpoint = hub.checkpoints.add(spec_bytes=SPEC, network_bytes=NETWORK, weights_bytes=None)
    assert checkpoint.origin == "drawn"
    newest = hub.evaluation_sets.newest("digits")
    assert newest is not None
    for path in (
        f"checkpoints/{checkpoint.weights_digest}.npz",
        f"evaluation/{newest.digest}.npz",
        f"targets/../evaluation/{newest.digest}.npz",
        f"targets/../checkpoints/{checkpoint.weights_digest}.npz",
    ):
        assert hub.read_block(path, 0) is None
