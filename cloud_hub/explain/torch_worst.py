"""Draws the items a model got most wrong, some right ones, and what those answers rest on."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_hub.explain.detections import confident
from cloud_hub.explain.findings import Kind
from cloud_hub.explain.matplotlib_figure import Picture
from cloud_hub.explain.matplotlib_items import (
    Shown,
    draw_saliency_sheet,
    draw_sheet,
    saliency_png,
)
from cloud_hub.explain.report import WorstItem
from cloud_hub.explain.torch_answers import to_inputs
from cloud_hub.explain.torch_judgement import Judgement
from cloud_hub.explain.torch_saliency import Saliency, can_ask, saliency
from cloud_hub.explain.worst import surest_right, worst_items

SALIENT_WORST = 6  # Of these there are single overlays
SHEET_WORST = 4  # And these are on the sheet
SALIENT_RIGHT = 2
RIGHT_SHOWN = 10
TEXT_CHARS_MAX = 120  # report.ShortText

Positions = NDArray[np.int64]


def draw_worst(judgement: Judgement, folder: Path) -> tuple[list[Picture], tuple[WorstItem, ...]]:
    """Return the pictures of items, and the worst ones; single overlays are written to `folder`."""
    findings = judgement.findings
    wrong = np.flatnonzero(~findings.is_right)
    worst = wrong[worst_items(findings.losses[wrong], findings.groups[wrong])]
    right = surest_right(
        findings.confidences, findings.is_right, findings.groups, count_max=RIGHT_SHOWN
    )
    pictures: list[Picture] = []
    overlays: dict[int, tuple[str, ...]] = {}
    spec = judgement.spec
    if worst.size:
        shown = [_shown(judgement, int(position)) for position in worst]
        title = "Worst items"
        pictures.append(draw_sheet(shown, spec, file="worst.png", title=title))
    if right.size:
        shown = [_shown(judgement, int(position)) for position in right]
        pictures.append(draw_sheet(shown, spec, file="right.png", title="Surest right items"))
    if can_ask(spec):
        salient = np.concatenate([worst[:SALIENT_WORST], right[:SALIENT_RIGHT]])
        asked = {int(position): _ask(judgement, int(position)) for position in salient}
        rows = [
            (_shown(judgement, position), one.gradient, one.occlusion)
            for position, one in asked.items()
            if findings.is_right[position] or position in worst[:SHEET_WORST]
        ]
        if rows:
            pictures.append(draw_saliency_sheet(rows, spec))
        for rank, position in enumerate(worst[:SALIENT_WORST]):
            one = asked[int(position)]
            overlays[int(position)] = _write_overlays(judgement, int(position), one, rank, folder)
    return pictures, tuple(
        _worst_item(judgement, int(position), overlays.get(int(position), ())) for position in worst
    )


def _shown(judgement: Judgement, position: int) -> Shown:
    findings = judgement.findings
    answer = findings.answer_texts[position]
    true = found = None
    if judgement.kind is Kind.BOXES:
        assert judgement.outputs.boxes is not None, "detection finds boxes"
        true = judgement.true[position]
        found = confident(judgement.outputs.boxes[position], judgement.spec.output.confidence_min)
    elif judgement.kind is Kind.CLASSES:
        answer = f"{answer} {findings.confidences[position]:.0%}"
    elif judgement.kind is Kind.ANOMALIES:
        answer = f"{answer} {findings.confidences[position]:.3g}"
    return Shown(
        item=judgement.arrays.items[judgement.chosen[position]],
        label=findings.label_texts[position],
        answer=answer,
        is_right=bool(findings.is_right[position]),
        true=true,
        found=found,
    )


def _ask(judgement: Judgement, position: int) -> Saliency:
    index = judgement.chosen[position]
    inputs = to_inputs(judgement.arrays.items[index : index + 1], judgement.spec)
    is_class = judgement.kind is Kind.CLASSES
    return saliency(
        judgement.network,
        judgement.spec,
        torch.from_numpy(inputs),
        answer=int(judgement.findings.answers[position]) if is_class else 0,
        device=judgement.device,
    )


def _write_overlays(
    judgement: Judgement, position: int, one: Saliency, rank: int, folder: Path
) -> tuple[str, ...]:
    item = judgement.arrays.items[judgement.chosen[position]]
    names = []
    for method, attribution in (("gradient", one.gradient), ("occlusion", one.occlusion)):
        if attribution is None:
            continue
        name = f"worst-{rank:02d}-{method}.png"
        (folder / name).write_bytes(saliency_png(item, attribution, judgement.spec))
        names.append(name)
    return tuple(names)


def _worst_item(judgement: Judgement, position: int, overlays: tuple[str, ...]) -> WorstItem:
    findings, item = judgement.findings, judgement.items[position]
    return WorstItem(
        digest=item.digest,
        name=item.name,
        label=findings.label_texts[position][:TEXT_CHARS_MAX],
        answer=findings.answer_texts[position][:TEXT_CHARS_MAX],
        confidence=float(findings.confidences[position]),
        loss=float(findings.losses[position]),
        saliency=overlays,
    )
