"""Texts on a device, end to end: a tokenizer and a model published, fetched, proved, run."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from msgspec import UNSET
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cloud_hub.candidates.service import UploadOptions
from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.__main__ import main
from edge_agent.command_line.bench_model import run_bench
from edge_agent.command_line.try_model import run_try
from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.inference.active_model import LoadedRelease
from edge_agent.inference.loop import InferenceLoop
from edge_agent.sources.capture import CaptureLoop
from edge_agent.sources.mailbox import mailbox_for
from edge_agent.sources.opening import open_source
from edge_agent.updates.repository_source import RepositorySource
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TufVerifier
from shared.clock import SystemClock
from shared.errors import ContractError
from shared.pipeline.sources import LinesSettings
from shared.release.digest import digest_of
from shared.release.manifest import (
    TOKENIZER,
    FileEntry,
    encode_manifest,
    file_path,
    manifest_digest,
    manifest_path,
)
from shared.wire.records import Classified
from shared.wire.target import TargetRelease, TrialPolicy
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import open_hub
from tests.support.repository_peer import RepositoryPeer
from tests.support.updater_bench import Bench

LENGTH = 8
SPEC = f"""
model = "mood"
task = "classification"
[input]
kind = "text"
length = {LENGTH}
tokenizer = "tokenizer-json"
[output]
decoder = "logits"
classes = ["bad", "good"]
"""
GOOD, BAD = ("fine", "great", "steady"), ("broken", "leaking", "hot")
LINES = {
    "the pump is fine": "good",
    "leaking again and hot": "bad",
    "all is steady and great": "good",
    "the belt is broken, the pump is fine, the motor is hot": "bad",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return a tokenizer of whole words."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"], show_progress=False)
    made.train_from_iterator([*LINES, " ".join(GOOD + BAD)], trainer)
    return made


def mood_model(tokenizer: Tokenizer) -> bytes:
    """Return a model that adds up what each word of a text says of bad and of good."""
    table = np.zeros((tokenizer.get_vocab_size() + 100, 2), np.float32)
    for word in BAD:
        table[tokenizer.token_to_id(word), 0] = 1.0
    for word in GOOD:
        table[tokenizer.token_to_id(word), 1] = 1.0
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["words"], axis=0),
            helper.make_node("ReduceSum", ["words", "axis"], ["logits"], keepdims=0),
        ],
        "mood",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, LENGTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    state = tmp_path / "hub"
    state.mkdir()
    (state / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{state}/hub.db")
    yield open_hub(state, database)
    database.close()


def published(hub: ReleaseService, tokenizer: Tokenizer) -> TargetRelease:
    """Let a model and its tokenizer through the gate; return how a Target names the release."""
    release = hub.add(
        model_bytes=mood_model(tokenizer),
        spec_bytes=SPEC.encode(),
        golden_bytes=None,
        metrics={},
        notes="",
        lineage_id=None,
        options=UploadOptions(tokenizer_bytes=tokenizer.to_str().encode()),
    )
    return TargetRelease(
        model="mood",
        version=release.version,
        manifest_digest=release.manifest_digest,
        rollout="roll-mood",
        trial=TrialPolicy(items_min=1, latency_ratio_max=1000.0),
    )


def device(folder: Path, hub: ReleaseService) -> Bench:
    """Return a device's updater over the hub's repository."""
    transfer = BlockTransfer((peer := RepositoryPeer(hub)).publish, ManualClock())
    peer.connect(transfer)
    verifier = TufVerifier(transfer, folder=folder / "tuf", bootstrap=hub.bootstrap_root())
    return Bench(
        folder, folder / "store", models=("mood",), source=RepositorySource(transfer, verifier)
    ).start()


def step(bench: Bench) -> None:
    """Let the updater do what it has to do."""
    for _ in range(20):
        bench.step()


def decide_lines(bench: Bench, path: Path) -> list[str]:
    """Return the labels of the lines of a file, as a pipeline of this device tells them."""
    clock, source = SystemClock(), open_source(LinesSettings(path=str(path)), SystemClock())
    mailbox, stop = mailbox_for(source, clock), threading.Event()
    results: list[ItemResult] = []
    capture = CaptureLoop(source, mailbox, clock)
    loop = InferenceLoop("p", mailbox, bench.active, sinks=[results.append], clock=clock)
    threads = [
        threading.Thread(target=part.run, args=(stop,), daemon=True) for part in (capture, loop)
    ]
    assert serving(bench).model == "mood"
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
    outcomes = [result.outcome for result in results if isinstance(result, Decision)]
    return [outcome.label for outcome in outcomes if isinstance(outcome, Classified)]


def serving(bench: Bench) -> LoadedRelease:
    release = bench.active.line.serving
    assert release is not None
    return release


@pytest.mark.slow
def test_a_published_tokenizer_makes_the_tokens_on_the_device(
    tmp_path: Path, hub: ReleaseService, tokenizer: Tokenizer
) -> None:
    release = published(hub, tokenizer)
    bench = device(tmp_path / "device", hub)
    bench.target(release, revision=1)
    step(bench)
    lines = tmp_path / "messages.txt"
    lines.write_text("\n".join(LINES))
    assert decide_lines(bench, lines) == list(LINES.values())
    step(bench)
    again = device(tmp_path / "device", hub)  # After a restart, from what lies on the disk
    step(again)
    assert decide_lines(again, lines) == list(LINES.values())
    assert serving(again).tokenize is not serving(bench).tokenize


@pytest.mark.slow
def test_the_gate_measures_texts_by_the_tokenizers_ids(
    hub: ReleaseService, tokenizer: Tokenizer
) -> None:
    words = [*GOOD, *BAD]
    texts = [f"number {n} is {words[n % 6]}".encode() for n in range(60)]
    items = np.array(texts, "S40").view(np.uint8).reshape(60, 40)
    labels = np.array([int(n % 6 < 3) for n in range(60)])
    np.savez(file := io.BytesIO(), items=items, labels=labels)
    hub.evaluation_sets.add("mood", file.getvalue())
    published(hub, tokenizer)
    verdict = hub.candidates.candidates("mood")[0].verdict
    assert verdict.is_passed
    assert verdict.slices[0].accuracy_new == 1.0


def signed_with(hub: ReleaseService, tokenizer: bytes) -> TargetRelease:
    """Sign a second release like the first, but for its tokenizer: no gate sees it."""
    first, files = hub.manifest("mood", 1), {}

    def entry(name: str, data: bytes) -> FileEntry:
        path = file_path("mood", 2, name)
        files[path] = data
        return FileEntry(path=path, digest=digest_of(data), file_bytes=len(data))

    def copied(found: FileEntry) -> FileEntry:
        return entry(found.path.rpartition("/")[2], hub.repository.read(found.path))

    (variant,) = first.variants
    manifest = msgspec.structs.replace(
        first,
        version=2,
        variants=(
            msgspec.structs.replace(
                variant, artifact=copied(variant.artifact), golden=copied(variant.golden)
            ),
        ),
        tokenizer=entry(TOKENIZER, tokenizer) if tokenizer else UNSET,
    )
    data = encode_manifest(manifest)
    hub.repository.publish({**files, manifest_path("mood", 2): data}, custom={})
    return TargetRelease(
        model="mood", version=2, manifest_digest=manifest_digest(data), rollout="roll-2"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("data", "code"), [(b"{}", "invalid"), (b"", "missing")])
def test_a_release_whose_tokenizer_cannot_be_used_is_refused_before_any_text(
    tmp_path: Path, hub: ReleaseService, tokenizer: Tokenizer, data: bytes, code: str
) -> None:
    bench = device(tmp_path / "device", hub)
    bench.target(published(hub, tokenizer), revision=1)
    step(bench)
    (tmp_path / "messages.txt").write_text("\n".join(LINES))
    decide_lines(bench, tmp_path / "messages.txt")  # So that its trial ends
    step(bench)
    bench.target(signed_with(hub, data), revision=2)
    step(bench)
    assert bench.serving == 1
    assert bench.model.state == "refused"
    assert bench.model.failure is not None
    assert bench.model.failure.code == f"tokenizer.{code}"


def written(
    folder: Path, tokenizer: Tokenizer, *, name: str = TOKENIZER
) -> tuple[Path, Path, Path]:
    """Return a model file and its spec, with a tokenizer beside them."""
    model, spec = folder / "mood.onnx", folder / "spec.toml"
    model.write_bytes(mood_model(tokenizer))
    spec.write_text(SPEC)
    (folder / name).write_text(tokenizer.to_str())
    return model, spec, folder / name


def test_a_model_of_texts_is_tried_with_the_tokenizer_beside_it(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    model, spec, _ = written(tmp_path, tokenizer)
    lines = tmp_path / "messages.txt"
    lines.write_text("\n".join(LINES))
    summary = run_try(model, spec, str(lines))
    assert (summary.items, summary.items_failed) == (4, 0)
    assert summary.labels == {"bad": 2, "good": 2}
    command = ["try", str(model), "--spec", str(spec), "--source", str(lines)]
    assert main(command) == 0
    assert "4 items of the lines of" in capsys.readouterr().out
    (tmp_path / "tokenizer.json").unlink()
    assert main(command) == 3
    assert "There is no tokenizer.json" in capsys.readouterr().err
    _, _, elsewhere = written(tmp_path, tokenizer, name="words.json")
    assert main([*command, "--tokenizer", str(elsewhere)]) == 0


@pytest.mark.slow
def test_a_model_of_texts_is_timed_on_a_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model, spec, beside = written(tmp_path, tokenizer)
    summary = run_bench(model, spec, state=tmp_path)
    assert summary.measured.choice is not None
    assert {row.code for row in summary.measured.rows} == {None}
    beside.unlink()
    with pytest.raises(ContractError, match=r"no tokenizer\.json"):
        run_bench(model, spec, state=tmp_path)
