"""Tiny real releases: ONNX classifiers of sixteen samples, each good or bad in its own way."""

from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.release.digest import digest_of
from shared.release.golden import GoldenSet, encode_golden
from shared.release.manifest import (
    FileEntry,
    Manifest,
    Variant,
    encode_manifest,
    file_path,
    manifest_digest,
)
from shared.wire.target import TargetRelease, TrialPolicy
from tests.support.tiny_items import SAMPLES, templates

CLASSES = ("rising", "falling", "flat")
GOLDEN_ITEMS = 4
FAILS_ABOVE = 0.3  # FAILING: inputs over this give infinity; golden inputs stay below
SLOW_SIDE, SLOW_LAYERS = 512, 6


class Kind(StrEnum):
    """What is the matter with a release."""

    GOOD = "good"
    BETTER = "better"  # As good, surer
    DAMAGED = "damaged"  # Signed and proved, and wrong: its classes are rotated
    UNSURE = "unsure"  # Right, with hardly any confidence
    FAILING = "failing"  # Proves itself, then fails on every real item
    SLOW = "slow"
    UNPROVED = "unproved"  # Does not compute what its golden outputs say
    UNLOADABLE = "unloadable"  # Signed rubbish


_GAINS = {Kind.BETTER: 1.5, Kind.UNSURE: 0.05}


def publish(
    store: Path,
    *,
    model: str = "tones",
    version: int,
    kind: Kind,
    rollout: str = "",
    policy: TrialPolicy | None = None,
    file: Path | None = None,
) -> TargetRelease:
    """Put a release into the folder of a ReleasePeer; return how a Target would name it.

    Args: file: its ONNX file, if it is not the kind's own; `kind` then says what golden outputs
    it gets.
    """
    spec = spec_for(model)
    artifact = b"not a model" if kind is Kind.UNLOADABLE else artifact_of(kind)
    golden = encode_golden(golden_of(artifact, kind))
    if file is not None:
        artifact = file.read_bytes()
    files = {"model.onnx": artifact, "golden.npz": golden}
    entries = {
        name: FileEntry(
            path=file_path(model, version, name), digest=digest_of(data), file_bytes=len(data)
        )
        for name, data in files.items()
    }
    manifest = Manifest(
        model=model,
        version=version,
        lineage_id=f"line-{version}",
        created_ms=1_700_000_000_000,
        spec=spec,
        variants=(
            Variant(precision="fp32", artifact=entries["model.onnx"], golden=entries["golden.npz"]),
        ),
    )
    data = encode_manifest(manifest)
    folder = store / manifest_digest(data)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**files, "manifest.json": data}.items():
        (folder / name).write_bytes(content)
    return TargetRelease(
        model=model,
        version=version,
        manifest_digest=manifest_digest(data),
        rollout=rollout or f"roll-{version}",
        trial=policy or TrialPolicy(items_min=30),
    )


def again(release: TargetRelease, rollout: str) -> TargetRelease:
    """Return the same release, asked for by another rollout."""
    return msgspec.structs.replace(release, rollout=rollout)


def spec_for(model: str) -> ModelSpec:
    """Return what every tiny release of a model takes in and gives out."""
    return ModelSpec(
        model=model,
        task=Task.CLASSIFICATION,
        input=WindowInput(samples=SAMPLES),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=CLASSES),
    )


def artifact_of(kind: Kind) -> bytes:
    """Return the ONNX file of a release of this kind."""
    """Return the ONNX file of a kind."""
    weights = templates() * _GAINS.get(kind, 1.0)  # (classes, SAMPLES)
    if kind is Kind.DAMAGED:
        weights = np.roll(weights, 1, axis=0)
    nodes = [helper.make_node("Flatten", ["input"], ["flat_input"])]
    constants = {"weights": weights.T.astype(np.float32)}
    last = "flat_input"
    if kind is Kind.SLOW:
        last = _slow_detour(nodes, constants)
    output = "sums" if kind is Kind.FAILING else "output"
    nodes.append(helper.make_node("MatMul", [last, "weights"], [output]))
    if kind is Kind.FAILING:
        _divide_by_what_is_left(nodes, constants)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, SAMPLES])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def _slow_detour(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]]) -> str:
    """Add layers that change nothing and take their time; return the last one's output."""
    identity = np.eye(SLOW_SIDE, dtype=np.float32)
    constants["widen"] = identity[:SAMPLES]  # (SAMPLES, SLOW_SIDE)
    constants["narrow"] = np.ascontiguousarray(identity[:, :SAMPLES])
    nodes.append(helper.make_node("MatMul", ["flat_input", "widen"], ["wide_0"]))
    for layer in range(SLOW_LAYERS):
        constants[f"layer_{layer}"] = identity
        nodes.append(
            helper.make_node("MatMul", [f"wide_{layer}", f"layer_{layer}"], [f"wide_{layer + 1}"])
        )
    nodes.append(helper.make_node("MatMul", [f"wide_{SLOW_LAYERS}", "narrow"], ["narrowed"]))
    return "narrowed"


def _divide_by_what_is_left(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]]
) -> None:
    """Divide by relu(FAILS_ABOVE - max |input|): 0, and so infinity, on every real item."""
    constants["limit"] = np.array(FAILS_ABOVE, dtype=np.float32)
    nodes += [
        helper.make_node("Abs", ["flat_input"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["peak"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["limit", "peak"], ["left"]),
        helper.make_node("Relu", ["left"], ["divisor"]),
        helper.make_node("Div", ["sums", "divisor"], ["output"]),
    ]


def golden_of(artifact: bytes, kind: Kind) -> GoldenSet:
    """Return the golden set of an artifact."""
    rng = np.random.default_rng(7)
    inputs = rng.uniform(-0.2, 0.2, (GOLDEN_ITEMS, 1, SAMPLES)).astype(np.float32)
    if kind is Kind.UNLOADABLE:
        return GoldenSet(inputs, (np.zeros((GOLDEN_ITEMS, len(CLASSES)), np.float32),))
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    outputs = np.concatenate(
        [session.run(None, {"input": inputs[i : i + 1]})[0] for i in range(GOLDEN_ITEMS)]
    )
    if kind is Kind.UNPROVED:
        outputs = outputs + 0.5
    return GoldenSet(inputs, (outputs,))
