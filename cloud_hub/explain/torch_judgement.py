"""Judgement: a network's answers to labelled items, and what was found of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cloud_hub.datasets.manifest import Item, Manifest
from cloud_hub.datasets.opencv_arrays import Arrays
from cloud_hub.explain import findings as found_by
from cloud_hub.explain.answers import Answers, digest_rows
from cloud_hub.explain.calibration import fit_temperature
from cloud_hub.explain.findings import Findings, Kind, kind_of
from cloud_hub.explain.torch_answers import Outputs, run_items
from shared.errors import RefusedError
from shared.model.postprocess import Boxes
from shared.model.spec import ModelSpec

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known once the network has answered."""

    network: nn.Module
    spec: ModelSpec
    arrays: Arrays
    chosen: Indices  # Labelled items, positions in the arrays
    items: tuple[Item, ...]  # The same ones in the manifest
    kind: Kind
    outputs: Outputs
    true: tuple[Boxes, ...]  # Boxes of each item; empty unless `kind` is BOXES
    findings: Findings
    device: torch.device


def labelled(arrays: Arrays, chosen: Indices) -> Indices:
    """Return those of the chosen positions whose items somebody has labelled."""
    is_known = arrays.labels[chosen] >= 0
    if arrays.boxes is not None:
        boxes = arrays.boxes
        is_known = np.array([boxes[int(index)] is not None for index in chosen], dtype=bool)
    known: Indices = chosen[is_known]
    return known


def judge(
    network: nn.Module,
    spec: ModelSpec,
    arrays: Arrays,
    chosen: Indices,
    manifest: Manifest,
    device: torch.device,
) -> Judgement:
    """Return what a network makes of the chosen items, all of them labelled.

    Raises RefusedError `explain.not_finite`, `explain.labels` or `inference.output`.
    """
    kind = kind_of(spec, manifest)
    items = tuple(manifest.items[int(arrays.indices[index])] for index in chosen)
    outputs = run_items(network, spec, arrays.items, chosen, device)
    labels = np.asarray(arrays.labels[chosen], dtype=np.int64)
    true = _true_boxes(arrays, chosen) if kind is Kind.BOXES else ()
    match kind:
        case Kind.CLASSES:
            assert outputs.probabilities is not None, "classes have probabilities"
            _check_labels(labels, outputs.probabilities.shape[1], spec)
            findings = found_by.class_findings(
                outputs.probabilities, labels, items, spec.output.classes
            )
        case Kind.ANOMALIES:
            assert outputs.scores is not None, "anomalies have scores"
            findings = found_by.anomaly_findings(
                outputs.scores, labels, items, threshold=spec.output.threshold
            )
        case Kind.NUMBERS:
            assert outputs.scores is not None, "numbers are scores"
            findings = found_by.number_findings(outputs.scores, labels, items, manifest.classes)
        case Kind.BOXES:
            assert outputs.boxes is not None, "detection finds boxes"
            findings = found_by.box_findings(outputs.boxes, true, items, spec)
    return Judgement(network, spec, arrays, chosen, items, kind, outputs, true, findings, device)


def temperature_of(judgement: Judgement, validation: Indices) -> float | None:
    """Return the temperature that would calibrate; None where there are no classes or items."""
    if judgement.kind is not Kind.CLASSES:
        return None
    arrays = judgement.arrays
    chosen = labelled(arrays, validation)
    outputs = run_items(judgement.network, judgement.spec, arrays.items, chosen, judgement.device)
    assert outputs.logits is not None, "classes have logits"
    return fit_temperature(outputs.logits, np.asarray(arrays.labels[chosen], dtype=np.int64))


def answers_of(judgement: Judgement) -> Answers:
    """Return what the model said of each item; see answers.py."""
    findings = judgement.findings
    return Answers(
        digests=digest_rows([item.digest for item in judgement.items]),
        labels=findings.labels,
        answers=findings.answers,
        confidences=findings.confidences.astype(np.float32, copy=False),
        is_right=findings.is_right,
    )


def _true_boxes(arrays: Arrays, chosen: Indices) -> tuple[Boxes, ...]:
    assert arrays.boxes is not None, "arrays for detection have boxes"
    found = (arrays.boxes[int(index)] for index in chosen)
    return tuple(boxes for boxes in found if boxes is not None)


def _check_labels(labels: Indices, outputs_count: int, spec: ModelSpec) -> None:
    classes_count = len(spec.output.classes)
    if outputs_count != classes_count or labels.max(initial=-1) >= classes_count:
        raise RefusedError(
            "explain.labels",
            f"The model puts out {outputs_count} numbers for {classes_count} classes, "
            f"labels go up to {labels.max(initial=-1)}.",
            remedy="Name the classes of the dataset and the model in output.classes.",
        )
