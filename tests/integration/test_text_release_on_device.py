"""A release of texts on its way to a device: its tokenizer fetched, measured with, and believed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as TextTokenizer
from tokenizers import models

from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.session import ModelSession
from edge_agent.updates.fitting import Fitter
from edge_agent.updates.repository_source import RepositorySource
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TufVerifier
from shared.clock import SystemClock
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, TextInput, Tokenizer
from shared.pipeline.pipeline import PipelineLimits
from shared.release.digest import digest_of
from shared.release.golden import GoldenSet, encode_golden
from shared.release.manifest import (
    TOKENIZER,
    FileEntry,
    Manifest,
    Variant,
    encode_manifest,
    file_path,
    manifest_digest,
    manifest_path,
)
from shared.wire.report import UpdateState
from shared.wire.target import TargetRelease
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import open_hub
from tests.support.repository_peer import RepositoryPeer
from tests.support.updater_bench import Bench

pytestmark = pytest.mark.slow
LENGTH = 4
SPEC = ModelSpec(
    model="mood",
    task=Task.CLASSIFICATION,
    input=TextInput(length=LENGTH, tokenizer=Tokenizer.TOKENIZER_JSON),
    output=OutputSpec(decoder=Decoder.LOGITS, classes=("calm", "loud")),
)


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    state = tmp_path / "hub"
    state.mkdir()
    (state / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{state}/hub.db")
    yield open_hub(state, database)
    database.close()


def tokenizer_json() -> bytes:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "hum": 2, "bang": 3}
    made = TextTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.add_special_tokens(["[PAD]"])
    text: str = made.to_str()
    return text.encode()


def sums() -> bytes:
    """Return a model of the ids' sum and its negative, (1, 4) int64 to (1, 2)."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "signs"], ["logits"]),
    ]
    signs = np.stack([-np.ones(LENGTH), np.ones(LENGTH)], axis=1).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, LENGTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(signs, "signs")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def publish(hub: ReleaseService, tokenizer: bytes) -> TargetRelease:
    onnx.checker.check_model(onnx.load_from_string(sums()))
    ids = np.arange(2 * LENGTH).reshape(2, LENGTH)
    totals = ids.sum(axis=1, dtype=np.float32)
    golden = encode_golden(GoldenSet(ids, (np.stack([-totals, totals], axis=1),)))
    files: dict[str, bytes] = {}

    def entry(name: str, data: bytes) -> FileEntry:
        path = file_path("mood", 1, name)
        files[path] = data
        return FileEntry(path=path, digest=digest_of(data), file_bytes=len(data))

    manifest = Manifest(
        model="mood",
        version=1,
        lineage_id="line-1",
        created_ms=0,
        spec=SPEC,
        variants=(
            Variant(
                precision="fp32",
                artifact=entry("fp32.onnx", sums()),
                golden=entry("fp32.npz", golden),
            ),
        ),
        tokenizer=entry(TOKENIZER, tokenizer),
    )
    data = encode_manifest(manifest)
    files[manifest_path("mood", 1)] = data
    hub.repository.publish(files, custom={})
    return TargetRelease(
        model="mood", version=1, manifest_digest=manifest_digest(data), rollout="roll-1"
    )


class Device:
    """A device's disk over a hub's repository; `loads` counts models that were loaded."""

    def __init__(self, folder: Path, hub: ReleaseService) -> None:
        self.folder, self.loads = folder, 0
        self._peer = RepositoryPeer(hub)

    def live(self) -> Bench:
        """Start a process."""
        transfer = BlockTransfer(self._peer.publish, ManualClock())
        self._peer.connect(transfer)
        root = self._peer.releases.bootstrap_root()
        verifier = TufVerifier(transfer, folder=self.folder / "tuf", bootstrap=root)
        fitter = Fitter(
            backends={"onnxruntime": self._load},
            prove_golden=prove_golden,
            limits=lambda _model: PipelineLimits(),
            threads=(1,),
            fingerprint="0123456789abcdef",
            clock=SystemClock(),
        )
        source = RepositorySource(transfer, verifier)
        bench = Bench(self.folder, self.folder, models=("mood",), source=source, fitter=fitter)
        return bench.start()

    def _load(self, path: Path, spec: ModelSpec, _threads: int) -> ModelSession:
        self.loads += 1
        return load_onnx_session(path, spec)


def test_a_measured_release_of_texts_makes_tokens_by_its_own_file(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(publish(hub, tokenizer_json()), revision=1)
    bench.step()
    for life in (bench, device.live()):
        life.step()
        serving = life.active.line.serving
        assert serving is not None, life.model.failure
        assert life.model.state is UpdateState.TRIAL
        assert serving.tokenize("bang").tolist() == [3, 0, 0, 0]
        assert serving.tokenize("hum").tolist() == [2, 0, 0, 0]
    assert device.loads == 2, "the second process runs what the first has chosen"


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (b'{"model": {"type": "BPE"}}', "tokenizer.json"),
        (
            tokenizer_json().replace(
                b'"pre_tokenizer":null', b'"pre_tokenizer":{"type":"FixedLength","length":0}'
            ),
            "non-zero",
        ),
    ],
    ids=["no tokenizer", "one that panics"],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_before_anything_is_loaded(
    tmp_path: Path, hub: ReleaseService, tokenizer: bytes, said: str
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(publish(hub, tokenizer), revision=1)
    bench.settle(items=0)
    failure = bench.model.failure
    assert failure is not None
    assert (bench.model.state, failure.code) == (UpdateState.REFUSED, "tokenizer.invalid")
    assert said in failure.text
    assert device.loads == 0


def test_a_tokenizer_that_rots_on_the_disk_is_not_believed(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(publish(hub, tokenizer_json()), revision=1)
    bench.step()
    path = device.folder / "releases/mood/A" / TOKENIZER
    path.write_bytes(path.read_bytes().replace(b"bang", b"BANG"))
    again = device.live()
    again.settle(items=0)
    assert again.active.line.serving is None
    assert again.model.failure is not None
    assert again.model.failure.code == "release.digest"
