"""unused_settings: what of a pipeline's settings its model makes nothing of. Pure.

A file is read before a model is there, so a label that the model does not know, or a threshold of
another task, cannot be refused then; without a word about it nothing would ever be followed,
counted or kept.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from shared.model.spec import ModelSpec, Task
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import ClipSinkSettings, SnapshotSinkSettings

LABELS_TOLD_MAX = 5
LABELS_OF_SCORES = ("normal", "anomalous")
# Keys of [decisions] that only one task reads.
TASK_OF_KEY: Mapping[str, Task] = MappingProxyType(
    {
        "confidence_min": Task.DETECTION,
        "overlap_max": Task.DETECTION,
        "tracking": Task.DETECTION,
        "threshold": Task.ANOMALY,
        "adaptive": Task.ANOMALY,
        "novelty": Task.ANOMALY,
        "hysteresis_margin": Task.CLASSIFICATION,
        "settle_s": Task.CLASSIFICATION,
    }
)


def unused_settings(settings: PipelineSettings, spec: ModelSpec) -> str:
    """Return in a sentence or two what plays no part with the model of `spec`; empty: all does."""
    sentences = []
    usual = DecisionSettings()
    keys = [
        key
        for key, task in TASK_OF_KEY.items()
        if task is not spec.task and getattr(settings.decisions, key) != getattr(usual, key)
    ]
    if keys:
        verb = "plays" if len(keys) == 1 else "play"
        sentences.append(f"Of decisions, {', '.join(keys)} {verb} no part in {spec.task}.")
    known = LABELS_OF_SCORES if spec.task is Task.ANOMALY else spec.output.classes
    unknown = sorted(set(_labels(settings)) - set(known))
    if unknown and known:
        told = ", ".join(unknown[:LABELS_TOLD_MAX])
        sentences.append(f"The model has no label {told}: nothing is ever so called.")
    return " ".join(sentences)


def _labels(settings: PipelineSettings) -> Iterator[str]:
    decisions = settings.decisions
    if decisions.tracking is not None:
        yield from decisions.tracking.labels
    for line in decisions.lines:
        yield from line.labels
    for zone in decisions.zones:
        yield from zone.labels
    for sink in settings.sinks:
        match sink:
            case SnapshotSinkSettings(labels=labels) | ClipSinkSettings(labels=labels):
                yield from labels
