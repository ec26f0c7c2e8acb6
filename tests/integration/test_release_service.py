"""From an upload to a release in the repository and the database, on both databases."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec import UNSET

from cloud_hub.candidates.candidate import (
    Candidate,
    CandidateId,
    GateRefusedError,
    PassedCandidate,
    PassedForm,
    Verdict,
)
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.onnx_quantizer import quantize_static
from cloud_hub.candidates.service import CandidateService, UploadOptions
from cloud_hub.candidates.sql_store import drop_refused
from cloud_hub.releases.release import Release, make_manifest
from cloud_hub.releases.service import ReleaseService, ReleaseSettings
from cloud_hub.releases.tuf_keys import KeyFolder
from cloud_hub.releases.tuf_repository import TufRepository
from cloud_hub.sql_database import Database
from shared.clock import SystemClock
from shared.errors import ContractError, RefusedError
from shared.ids import LineageId, ModelName
from shared.model.spec import parse_spec
from shared.release.digest import digest_of
from shared.release.golden import decode_golden
from shared.release.manifest import decode_manifest, encode_manifest
from shared.wire.blocks import BLOCK_BYTES
from tests.support import tiny_models as tiny
from tests.support.cutting_store import CuttingStore, PowerCutError
from tests.support.release_hub import add, open_hub

pytestmark = pytest.mark.slow  # Each upload starts an examining process.

GOOD = tiny.classifier(1).SerializeToString()
LINE = LineageId("line-abc")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def hub(state: Path, database: Database) -> ReleaseService:
    return open_hub(state, database)


def upload(hub: ReleaseService, data: bytes = GOOD, **changes: Any) -> Release:
    arguments: dict[str, Any] = {
        "model_bytes": data,
        "spec_bytes": tiny.SPEC.encode(),
        "golden_bytes": None,
        "metrics": {"accuracy": 0.97},
        "notes": "first",
        "lineage_id": LINE,
    }
    return hub.add(**(arguments | changes))


def test_an_upload_becomes_a_release(hub: ReleaseService) -> None:
    release = upload(hub)
    assert release.name == "digits:1"
    assert release.verdict.is_passed
    codes = [remark.code for remark in release.verdict.remarks]
    assert codes == ["gate.golden_drawn", "gate.folded", "gate.not_evaluated"]
    assert hub.get("digits", 1) == release
    assert hub.releases() == hub.releases("digits") == (release,)
    assert hub.releases("other") == ()
    manifest = hub.manifest("digits", 1)
    assert manifest.lineage_id == LINE
    assert manifest.metrics == {"accuracy": 0.97}
    assert manifest.notes == "first"
    variant = manifest.variants[0]
    assert (variant.precision,) == release.precisions == ("fp32",)
    artifact = hub.repository.read(variant.artifact.path)
    assert digest_of(artifact) == variant.artifact.digest
    assert len(artifact) == release.artifact_bytes
    assert decode_golden(hub.repository.read(variant.golden.path)).items_count == 8


def test_a_release_holds_all_forms_and_a_tokenizer_each_signed(hub: ReleaseService) -> None:
    passed = PassedCandidate(
        candidate=Candidate(
            candidate_id=CandidateId("cand-1"),
            model=ModelName("digits"),
            content_digest="0" * 64,
            lineage_id=LINE,
            precision="int8",
            created_ms=1,
            verdict=Verdict(is_passed=True, reasons=()),
        ),
        spec=parse_spec(tiny.SPEC.encode()),
        forms=(
            PassedForm("int8", b"small", b"golden", agreement=0.97, calibration="entropy"),
            PassedForm("fp32", b"large", b"golden", agreement=1.0),
            PassedForm("int8-s8s8", b"signed", b"golden", architectures=("aarch64",)),
        ),
        tokenizer_bytes=b"{}",
    )
    manifest, made = make_manifest(passed, version=1, metrics={}, notes="", created_ms=1)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert [one.precision for one in manifest.variants] == ["int8", "fp32", "int8-s8s8"]
    assert manifest.variants[0].agreement == 0.97
    assert manifest.variants[1].architectures is UNSET
    assert manifest.tokenizer is not UNSET
    hub.repository.publish(made, custom={})
    signed = hub.repository.files()
    entries = [one for variant in manifest.variants for one in (variant.artifact, variant.golden)]
    for entry in (*entries, manifest.tokenizer):
        assert digest_of(hub.repository.read(entry.path)) == entry.digest
        assert entry.path in signed
    assert hub.repository.read("releases/digits/1/tokenizer.json") == b"{}"


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"{}"])
def test_a_tokenizer_must_be_one_and_belong_to_a_model_of_texts(
    hub: ReleaseService, data: bytes
) -> None:
    with pytest.raises(ContractError) as raised:  # digits is a model of pictures
        upload(hub, options=UploadOptions(tokenizer_bytes=data))
    assert raised.value.code == "release.tokenizer"


def test_open_sizes_of_the_picture_are_refused_naming_the_input(hub: ReleaseService) -> None:
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(GateRefusedError) as raised:
        upload(hub, model.SerializeToString())
    [reason] = [one for one in raised.value.reasons if one.code == "gate.input_shape"]
    assert "'input'" in reason.text
    assert "open sizes" in reason.text


def test_an_int8_model_is_published_as_such(hub: ReleaseService) -> None:
    data = tiny.convolutional(3).SerializeToString()
    release = upload(hub, quantize_static(data, tiny.images(32)))
    assert release.precisions == ("int8",)
    assert hub.manifest("digits", 1).variants[0].artifact.path == "releases/digits/1/int8.onnx"


def test_the_hub_itself_imports_no_model_library() -> None:
    code = "import sys, cloud_hub.releases.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"onnx", "onnxruntime", "torch", "numpy"}


def test_versions_count_up_and_the_same_upload_is_the_same_release(hub: ReleaseService) -> None:
    first = upload(hub)
    second = upload(hub, tiny.classifier(2).SerializeToString())
    assert (first.version, second.version) == (1, 2)
    assert upload(hub, notes="again") == first
    other_spec = tiny.SPEC.replace('"two"', '"three"').encode()
    assert upload(hub, spec_bytes=other_spec).version == 3
    other_model = tiny.SPEC.replace('"digits"', '"letters"').encode()
    assert upload(hub, spec_bytes=other_model).name == "letters:1"
    assert [release.name for release in hub.releases("digits")].count("digits:1") == 1


def test_the_same_upload_by_several_at_once_is_one_release(hub: ReleaseService) -> None:
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(upload(hub).name)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert names == ["digits:1"] * 3
    assert len(hub.releases()) == 1


def test_a_refused_candidate_is_kept_with_its_reasons_and_never_published(
    hub: ReleaseService,
) -> None:
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 9
    with pytest.raises(GateRefusedError) as raised:
        upload(hub, model.SerializeToString())
    assert raised.value.code == "gate.refused"
    assert "gate.input_shape" in [reason.code for reason in raised.value.reasons]
    kept = hub.candidates.get(raised.value.candidate.candidate_id)
    assert kept == raised.value.candidate
    assert not kept.verdict.is_passed
    assert kept.verdict.reasons == raised.value.reasons
    assert hub.candidates.candidates("digits") == (kept,)
    assert hub.releases() == ()
    assert hub.repository.files() == {}


def test_old_refusals_are_forgotten_and_passed_candidates_are_not(
    hub: ReleaseService, database: Database
) -> None:
    passed = upload(hub).candidate_id
    for data in (b"one", b"two", b"three"):
        with pytest.raises(GateRefusedError):
            upload(hub, data)
    with database.begin() as connection:
        rows = connection.execute(
            sa.text("SELECT candidate_id FROM candidates ORDER BY created_ms")
        )
        ids = [row[0] for row in rows]
        drop_refused(connection, kept_max=1)
    assert [c.candidate_id for c in hub.candidates.candidates()] == [ids[-1], passed]


def test_a_file_over_the_limit_is_refused_unseen(state: Path, database: Database) -> None:
    hub = open_hub(state, database, settings=ReleaseSettings(gate=GateSettings(model_bytes_max=99)))
    with pytest.raises(GateRefusedError) as raised:
        upload(hub)
    assert [reason.code for reason in raised.value.reasons] == ["gate.size"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"spec_bytes": b"model = 3"}, "config.invalid"),
        ({"metrics": {"accuracy": float("nan")}}, "release.description"),
        ({"metrics": {"x" * 200: 1.0}}, "release.description"),
        ({"metrics": {str(n): 1.0 for n in range(65)}}, "release.description"),
        ({"notes": "x" * 3000}, "release.description"),
    ],
)
def test_what_is_said_about_a_model_must_fit_the_contract(
    hub: ReleaseService, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(ContractError) as raised:
        upload(hub, **changes)
    assert raised.value.code == code
    assert hub.candidates.candidates() == ()


def test_channels_point_at_releases(hub: ReleaseService) -> None:
    upload(hub)
    upload(hub, tiny.classifier(2).SerializeToString())
    assert hub.channels() == ()
    hub.set_channel("digits", "stable", 1)
    hub.set_channel("digits", "beta", 2)
    hub.set_channel("digits", "beta", 1)
    pointers = {str(channel.name): channel.version for channel in hub.channels("digits")}
    assert pointers == {"beta": 1, "stable": 1}
    with pytest.raises(RefusedError) as refused:
        hub.set_channel("digits", "stable", 3)
    assert refused.value.code == "release.unknown"
    with pytest.raises(ContractError) as unknown:
        hub.set_channel("digits", "nightly", 1)
    assert unknown.value.code == "channel.unknown"


def test_unknown_releases_are_refused(hub: ReleaseService) -> None:
    for read in (hub.get, hub.manifest):
        with pytest.raises(RefusedError) as raised:
            read("digits", 7)
        assert raised.value.code == "release.unknown"


def test_blocks_are_read_in_order_and_nothing_else_is(hub: ReleaseService) -> None:
    add(hub, hidden=2000)
    entry = hub.manifest("digits", 1).variants[0].artifact
    folder, _, name = entry.path.rpartition("/")
    path = f"targets/{folder}/{entry.digest}.{name}"
    blocks = []
    while (found := hub.read_block(path, len(blocks))) is not None:
        assert found.file_bytes == entry.file_bytes
        blocks.append(found.data)
    assert {len(block) for block in blocks[:-1]} == {BLOCK_BYTES}
    assert digest_of(b"".join(blocks)) == entry.digest
    for outside in (
        "../keys/online/x",
        "targets/../../hub.db",
        "/etc/passwd",
        "keys/online/releases.pem",
        "metadata/none.json",
        "metadata",
        "",
    ):
        assert hub.read_block(outside, 0) is None
    assert hub.read_block(path, 2**40) is None


# Killed in between: the repository is the truth, the row is made again.


def test_a_release_without_a_row_gets_it_at_the_next_start(
    hub: ReleaseService, state: Path, database: Database
) -> None:
    release = upload(hub)
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM releases"))
    assert hub.releases() == ()
    again = open_hub(state, database)
    assert again.get("digits", 1) == release
    assert upload(again) == release
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM releases"))
        connection.execute(sa.text("DELETE FROM candidates"))
    assert open_hub(state, database).get("digits", 1).verdict.is_passed


@pytest.mark.parametrize("cut_at", [0, 3, 5])
def test_an_upload_cut_off_at_any_write_can_be_sent_again(
    state: Path, database: Database, cut_at: int
) -> None:
    """The last cut is after everything is visible and before the row."""
    hub = open_hub(state, database)
    is_written = cut_at == 5
    store = CuttingStore(str(state / "repository"), cut_at=cut_at, is_written=is_written)
    cutting = cutting_hub(state, database, store)
    with pytest.raises(PowerCutError):
        upload(cutting)
    assert hub.releases() == ()
    again = open_hub(state, database)
    assert len(again.releases()) == is_written
    assert upload(again).version == 1
    assert len(again.releases()) == 1


def cutting_hub(state: Path, database: Database, store: CuttingStore) -> ReleaseService:
    clock = SystemClock()
    repository = TufRepository(store, KeyFolder(state / "keys"), clock)
    candidates = CandidateService(database, clock)
    return ReleaseService(database, candidates, repository, store, clock)


def test_kill_9_while_publishing(state: Path, database_url: str) -> None:
    database = Database(database_url)
    open_hub(state, database)
    command = [sys.executable, "-m", "tests.support.publish_process"]
    for cut_at in (0, 5):
        arguments = [str(state), database_url, json.dumps(cut_at)]
        done = subprocess.run([*command, *arguments], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        hub = open_hub(state, database)
        assert [release.version for release in hub.releases()] == [1] * (cut_at == 5)
        for release in hub.releases():
            assert hub.manifest(release.model, release.version).version == release.version
    database.close()


def test_what_a_hub_knows_survives_its_restart(state: Path, database_url: str) -> None:
    def reopened() -> Iterator[ReleaseService]:
        database = Database(database_url)
        yield open_hub(state, database)
        database.close()

    for hub in reopened():
        release = upload(hub)
        hub.set_channel("digits", "stable", 1)
        root = hub.bootstrap_root()
    for hub in reopened():
        assert hub.releases() == (release,)
        assert hub.channels()[0].version == 1
        assert hub.bootstrap_root() == root
