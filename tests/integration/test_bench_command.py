"""`edge-agent bench`: a file, a folder of variants, a release that has settled here."""

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge_agent.command_line.bench_model import run_bench
from edge_agent.command_line.bench_text import bench_as_json, print_bench
from shared.errors import ContractError, RefusedError
from tests.support import tiny_models as tiny
from tests.support.tiny_releases import Kind, publish
from tests.support.updater_bench import Bench


@pytest.mark.slow
def test_files_are_timed_beside_each_other_in_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, spec, folder = tmp_path / "digits.onnx", tmp_path / "spec.toml", tmp_path / "others"
    folder.mkdir()
    model.write_bytes(tiny.classifier(1, hidden=2000).SerializeToString())
    (folder / "small.onnx").write_bytes(tiny.classifier(2, hidden=16).SerializeToString())
    (folder / "broken.onnx").write_bytes(tiny.identity_window().SerializeToString())
    spec.write_text(tiny.SPEC)
    with pytest.raises(RefusedError, match="expects"):
        run_bench(model, spec, variants=folder, state=tmp_path)
    (folder / "broken.onnx").unlink()
    summary = run_bench(model, spec, variants=folder, state=tmp_path)
    rows = {row.way: row for row in summary.measured.rows}
    fp32, small = rows["fp32", "onnxruntime", 1], rows["small", "onnxruntime", 1]
    assert small.run_ms_p50 < fp32.run_ms_p50
    assert small.artifact_bytes < fp32.artifact_bytes
    assert fp32.rss_bytes > 1 << 20
    assert summary.measured.choice is not None
    print_bench(summary)
    told = capsys.readouterr().out
    assert "chosen" in told
    assert summary.measured.reasons[0] in told
    assert bench_as_json(summary)["refusal"] == ""


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores to run two at a time")
def test_memory_is_told_of_the_runs_and_not_of_the_loaded_model_alone(tmp_path: Path) -> None:
    """30 MiB an activation: two runs at the same time hold two of them."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["one"], axes=[1, 2, 3]),
        helper.make_node("Expand", ["one", "large"], ["wide"]),
        helper.make_node("Sigmoid", ["wide"], ["wider"]),
        helper.make_node("ReduceMean", ["wider"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    large = {"large": np.array([1, 3, 1600, 1600], np.int64)}
    model, spec = tmp_path / "large.onnx", tmp_path / "spec.toml"
    network = tiny.make(nodes, large, shape=(1, 1, 8, 8), outputs=[("logits", (1, 3))])
    model.write_bytes(network.SerializeToString())
    spec.write_text(tiny.SPEC)
    summary = run_bench(model, spec, state=tmp_path)
    rows = {row.way: row for row in summary.measured.rows}
    most = max(threads for _, backend, threads in rows if backend == "onnxruntime")
    one, many = rows["fp32", "onnxruntime", 1], rows["fp32", "onnxruntime", most]
    assert many.rss_bytes - one.rss_bytes > 16 << 20


@pytest.mark.slow
def test_a_release_is_opened_where_it_settled(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", tmp_path / "store").start()
    release = publish(tmp_path / "store", version=1, kind=Kind.GOOD)
    bench.target(release, revision=1)
    bench.settle()
    slot = tmp_path / "state/releases/tones/A"
    mark = f'{{"manifest_digest":"{release.manifest_digest}","precision":"fp32"}}'
    (slot / "release.json").write_text(mark)  # As RepositorySource leaves it
    summary = run_bench(None, None, release="tones:1", state=tmp_path / "state")
    assert (summary.name, summary.told) == ("tones:1", None)
    assert summary.measured.manifest_digest == release.manifest_digest
    with pytest.raises(RefusedError, match="tones:2 has not settled"):
        run_bench(None, None, release="tones:2", state=tmp_path / "state")


def test_what_cannot_be_timed_is_said(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="nothing to time"):
        run_bench(None, None, state=tmp_path)
    model = tmp_path / "model.onnx"
    with pytest.raises(ContractError, match=r"model\.onnx is not there"):
        run_bench(model, None, state=tmp_path)
    model.write_bytes(b"")
    with pytest.raises(ContractError, match="needs its spec"):
        run_bench(model, None, state=tmp_path)
    with pytest.raises(ContractError, match="is a folder"):
        run_bench(tmp_path, None, state=tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ContractError, match=r"no \.onnx file in the folder"):
        run_bench(None, None, variants=tmp_path / "none", state=tmp_path)
    with pytest.raises(ContractError, match=r"model\.onnx"):
        run_bench(model, model, state=tmp_path)
    with pytest.raises(RefusedError, match="has not settled"):
        run_bench(None, None, release="tones:1", state=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["text", "empty", "half", "opset"])
def test_a_file_that_is_no_model_is_told_in_plain_words(tmp_path: Path, case: str) -> None:
    spec, model = tmp_path / "spec.toml", tmp_path / "digits.onnx"
    spec.write_text(tiny.SPEC)
    good = tiny.classifier(1)
    data = good.SerializeToString()
    good.opset_import[0].version = 99
    files = {
        "text": b"no model at all\n" * 20,
        "empty": b"",
        "half": data[: len(data) // 2],
        "opset": good.SerializeToString(),
    }
    model.write_bytes(files[case])
    with pytest.raises(RefusedError) as caught:
        run_bench(model, spec, state=tmp_path)
    said = "of opset 99, and this runtime knows" if case == "opset" else "not an ONNX file"
    assert said in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    assert caught.value.code == "model.unloadable"
