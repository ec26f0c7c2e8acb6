"""Checkpoints and evaluation sets: kept once, in order, within limits, on both databases."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloud_hub.candidates import evaluation_sets
from cloud_hub.candidates import sql_store_checkpoints as sql_store
from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.candidates.checkpoint_service import CHECKPOINTS_KEPT_MAX, CheckpointService
from cloud_hub.candidates.evaluation_data import check_fit, decode_evaluation, split
from cloud_hub.candidates.evaluation_limits import EVALUATION_BYTES_MAX, SLICES_MAX
from cloud_hub.candidates.evaluation_sets import SETS_MAX, EvaluationSets
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.errors import ContractError, IntegrityError, IsthmusError, RefusedError
from shared.ids import LineageId, ModelName
from shared.model.network import parse_network
from shared.model.spec import parse_spec
from shared.model.weights import decode_weights, digest_weights, encode_weights
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.slow  # What is added is read in a process of its own.

SPEC = b"""
model = "shaft"
task = "classification"
input = {kind = "window", samples = 8, channels = 2}
output = {decoder = "logits", classes = ["good", "bad"]}
"""
ANOMALY = b"""
model = "shaft"
task = "anomaly"
input = {kind = "window", samples = 8, channels = 2}
output = {decoder = "reconstruction", threshold = 1.0}
"""
NETWORK = b'architecture = {kind = "mlp", hidden = [3]}'
LINE = LineageId("line-shaft")


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore("memory:///")


@pytest.fixture
def checkpoints(database: Database, store: ObjectStore) -> CheckpointService:
    return CheckpointService(database, store, ManualClock())


@pytest.fixture
def sets(database: Database, store: ObjectStore) -> EvaluationSets:
    return EvaluationSets(database, store, ManualClock())


def windows(seed: int = 0, **changes: Any) -> bytes:
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "items": random.standard_normal((10, 8, 2)).astype(np.float32),
        "labels": np.arange(10) % 2,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays | changes))
    return buffer.getvalue()


def test_drawn_weights_are_a_checkpoint_and_so_is_what_was_trained_from_it(
    checkpoints: CheckpointService, store: ObjectStore
) -> None:
    assert checkpoints.newest("shaft") is None
    drawn = checkpoints.add(spec_bytes=SPEC, network_bytes=NETWORK, weights_bytes=None)
    assert (drawn.origin, drawn.parameters_count) == ("drawn", 16 * 3 + 3 + 3 * 2 + 2)
    data = checkpoints.weights(drawn.checkpoint_id)
    weights = decode_weights(data)
    assert digest_weights(weights) == drawn.weights_digest
    moved = encode_weights({name: array + np.float32(1.0) for name, array in weights.items()})
    trained = checkpoints.add_trained(drawn, moved, origin="job-1", lineage_id=LINE)
    assert (trained.origin, trained.lineage_id, trained.network) == ("job-1", LINE, drawn.network)
    assert [one.checkpoint_id for one in checkpoints.list("shaft")] == [
        trained.checkpoint_id,
        drawn.checkpoint_id,
    ]
    assert checkpoints.newest("shaft") == trained == checkpoints.get(trained.checkpoint_id)
    assert checkpoints.get(drawn.checkpoint_id) == drawn
    checkpoints.remove(trained.checkpoint_id)
    assert store.paths("checkpoints/") == (f"checkpoints/{drawn.weights_digest}.npz",)
    for call in (checkpoints.get, checkpoints.weights, checkpoints.remove):
        with pytest.raises(RefusedError, match="no checkpoint") as raised:
            call(trained.checkpoint_id)
        assert raised.value.code == "checkpoint.unknown"
    store.delete(f"checkpoints/{drawn.weights_digest}.npz")
    with pytest.raises(IntegrityError) as damaged:
        checkpoints.weights(drawn.checkpoint_id)
    assert damaged.value.code == "checkpoint.damaged"


def test_the_same_again_is_the_same_also_from_two_threads_at_once(
    checkpoints: CheckpointService,
) -> None:
    def add(_: int) -> CheckpointId:
        added = checkpoints.add(spec_bytes=SPEC, network_bytes=NETWORK, weights_bytes=None)
        return added.checkpoint_id

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(add, range(2)))) == 1
    (only,) = checkpoints.list()
    assert checkpoints.weights(only.checkpoint_id)


def test_only_the_newest_are_kept_and_their_weights_with_them(
    checkpoints: CheckpointService, store: ObjectStore, database: Database
) -> None:
    first = Checkpoint(
        checkpoint_id=CheckpointId("ckpt-0"),
        model=ModelName("shaft"),
        spec=parse_spec(SPEC),
        network=parse_network(NETWORK),
        weights_digest=f"{0:064d}",
        parameters_count=59,
        lineage_id=LINE,
        origin="job-1",
        created_ms=1,
    )
    other = replace(first, checkpoint_id=CheckpointId("ckpt-other"), model=ModelName("other"))
    with database.begin() as connection:
        sql_store.insert_checkpoint(connection, other)
        for index in range(CHECKPOINTS_KEPT_MAX + 1):
            one = replace(
                first,
                checkpoint_id=CheckpointId(f"ckpt-{index}"),
                weights_digest=f"{index:064d}",
                created_ms=1 + index,
            )
            store.put(f"checkpoints/{one.weights_digest}.npz", b"x")
            sql_store.insert_checkpoint(connection, one)
    newest = checkpoints.add(spec_bytes=SPEC, network_bytes=NETWORK, weights_bytes=None)
    kept = checkpoints.list("shaft", limit=1000)
    assert len(kept) == CHECKPOINTS_KEPT_MAX
    assert (kept[0], kept[-1].checkpoint_id) == (newest, "ckpt-2")
    assert store.get(f"checkpoints/{1:064d}.npz") is None
    # Another model's checkpoint has the same weights: they stay.
    assert checkpoints.weights("ckpt-other") == b"x"
    checkpoints.remove("ckpt-other")
    assert store.get(f"checkpoints/{first.weights_digest}.npz") is None


def test_what_cannot_be_a_checkpoint_leaves_nothing_behind(
    checkpoints: CheckpointService, store: ObjectStore
) -> None:
    for arguments, code in (
        ({"spec_bytes": b"model = 3"}, "config.invalid"),
        ({"network_bytes": b'architecture = {kind = "import os"}'}, "config.invalid"),
        ({"weights_bytes": encode_weights({"0": np.zeros(3, np.float32)})}, "weights.misfit"),
        ({"weights_bytes": b"", "origin": "x" * 64}, "checkpoint.origin"),
    ):
        given: dict[str, Any] = {
            "spec_bytes": SPEC,
            "network_bytes": NETWORK,
            "weights_bytes": None,
        }
        with pytest.raises(ContractError) as raised:
            checkpoints.add(**(given | arguments))
        assert raised.value.code == code
    assert checkpoints.list() == ()
    assert store.paths("") == ()


def test_a_set_is_kept_once_and_the_newest_is_what_was_added_last(
    sets: EvaluationSets, store: ObjectStore
) -> None:
    slices = np.array(["day"] * 7 + ["night"] * 3)
    first = sets.add("shaft", windows(1, slices=slices))
    assert (first.items_count, first.item_shape) == (10, (8, 2))
    assert first.slices == {"day": 7, "night": 3}
    second = sets.add("shaft", windows(2))
    assert [one.digest for one in sets.list("shaft")] == [second.digest, first.digest]
    again = sets.add("shaft", windows(1, slices=slices))
    assert sets.newest("shaft") == again
    assert (again.digest, len(sets.list())) == (first.digest, 2)
    assert sets.read(again) == windows(1, slices=slices)
    sets.add("axle", windows(2))
    sets.remove("shaft", second.digest)
    assert sets.read(sets.get("axle", second.digest))  # The other model's items stay
    sets.remove("axle", second.digest)
    assert len(store.paths("evaluation/")) == 1
    with pytest.raises(RefusedError) as raised:
        sets.remove("axle", second.digest)
    assert raised.value.code == "evaluation.unknown"


def test_sets_added_by_threads_at_once_are_all_there(sets: EvaluationSets) -> None:
    with ThreadPoolExecutor(3) as pool:
        added = list(pool.map(lambda seed: sets.add("shaft", windows(seed % 3)), range(6)))
    assert {one.digest for one in sets.list("shaft")} == {one.digest for one in added}
    assert len({one.created_ms for one in sets.list("shaft")}) == 3


def test_a_model_has_a_limited_number_of_sets(
    sets: EvaluationSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SETS_MAX >= 10
    monkeypatch.setattr(evaluation_sets, "SETS_MAX", 2)  # Twenty would take seconds
    first = sets.add("shaft", windows(1))
    sets.add("shaft", windows(2))
    with pytest.raises(RefusedError) as raised:
        sets.add("shaft", windows(3))
    assert raised.value.code == "evaluation.too_many"
    sets.add("shaft", windows(1))  # One that is there takes no place
    sets.add("axle", windows(3))
    sets.remove("shaft", first.digest)
    sets.add("shaft", windows(3))


def test_a_damaged_set_is_never_judged_by(sets: EvaluationSets, store: ObjectStore) -> None:
    added = sets.add("shaft", windows(1))
    store.put(f"evaluation/{added.digest}.npz", windows(2))
    with pytest.raises(IntegrityError) as raised:
        sets.read(added)
    assert raised.value.code == "evaluation.damaged"


ITEMS = np.zeros((10, 8, 2), np.float32)
BAD = [
    ({"items": ITEMS.astype(np.float64)}, "`items` are float64"),
    ({"items": np.zeros((10, 4, 4, 3), np.float32)}, "`items` are float32"),
    ({"items": np.full((10, 8, 2), np.nan, np.float32)}, "NaN"),
    ({"items": ITEMS[:0], "labels": np.zeros(0, np.int64)}, "`items` must be 1 to"),
    ({"labels": np.zeros(9, np.int64)}, "`labels` must be (10,)"),
    ({"labels": np.array(["one"] * 10)}, "`labels` must be (10,) whole numbers"),
    ({"slices": np.zeros(10)}, "`slices` must be (10,) texts"),
    ({"slices": np.array([""] * 10)}, "`slices` must be printable"),
    ({"slices": np.array(["a\nb"] * 10)}, "`slices` must be printable"),
    ({"extra": np.zeros(1)}, "unexpected array 'extra'"),
    ({"labels": np.array([object()] * 10)}, "allow_pickle"),
]


@pytest.mark.parametrize(("changes", "text"), BAD)
def test_what_is_no_set_is_told_by_the_array(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ContractError) as raised:
        decode_evaluation(windows(**changes))
    assert raised.value.code == "evaluation.invalid"
    assert text.lower() in raised.value.message.lower()


def test_limits_of_a_set(sets: EvaluationSets, store: ObjectStore) -> None:
    count = SLICES_MAX + 1
    items, names = np.zeros((count, 8, 2), np.float32), [f"s{index}" for index in range(count)]
    many = windows(items=items, labels=np.zeros(count, np.int64), slices=np.array(names))
    bomb = bytearray(windows())
    entry = bomb.index(b"PK\x01\x02")  # The archive's own list says how large a member is
    bomb[entry + 24 : entry + 28] = (EVALUATION_BYTES_MAX + 1).to_bytes(4, "little")
    for data, code, text in (
        (many, "evaluation.invalid", f"{count} slices"),
        (bytes(bomb), "evaluation.invalid", "unpacks to over"),
        (b"no zip", "evaluation.invalid", "zip"),
        (bytes(EVALUATION_BYTES_MAX + 1), "evaluation.too_large", "fewer"),
    ):
        with pytest.raises(IsthmusError) as raised:
            sets.add("shaft", data)
        assert raised.value.code == code
        assert text in str(raised.value)
    assert store.paths("") == ()


@pytest.mark.parametrize(
    ("spec", "labels", "items", "fits"),
    [
        (SPEC, [0, 1], (8, 2), True),
        (SPEC, [0, 2], (8, 2), False),
        (SPEC, [-1, 1], (8, 2), False),
        (SPEC, [0, 1], (2, 8), False),
        (ANOMALY, [0, 1], (8, 2), True),
        (ANOMALY, [1, 2], (8, 2), False),
    ],
)
def test_whether_a_set_fits_a_model(
    spec: bytes, labels: list[int], items: tuple[int, ...], *, fits: bool
) -> None:
    data = windows(items=np.zeros((2, *items), np.float32), labels=np.array(labels))
    if fits:
        check_fit(decode_evaluation(data), parse_spec(spec))
        return
    with pytest.raises(ContractError) as raised:
        check_fit(decode_evaluation(data), parse_spec(spec))
    assert raised.value.code == "evaluation.misfit"


def test_the_split_depends_on_the_items_alone_and_parts_twins_never() -> None:
    items = np.random.default_rng(0).standard_normal((200, 8, 2)).astype(np.float32)
    items[100:] = items[:100]  # Each twice
    parts = split(items)
    assert sorted(parts.calibration + parts.held_out) == list(range(200))
    assert 0 < len(parts.calibration) <= 40
    assert {index % 100 for index in parts.calibration}.isdisjoint(
        {index % 100 for index in parts.held_out}
    )
    turned = split(items[::-1])
    assert {199 - index for index in turned.calibration} == set(parts.calibration)
