"""The timeline: every change of a rollout with who, when, what, and measured against limit. Pure.

1. Entries are only ever added, in the transaction that makes the change they tell of.
2. An entry's text stands alone: it says the reason in plain words, with numbers.
3. ENTRIES_MAX bounds what devices can write (one that flaps for ever); past it only the rollout's
   own changes are still written down, and one entry says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.rollout import DeviceState, ReleaseRef, Rollout, RolloutDevice
from shared.ids import DeviceId, ModelName, RolloutId
from shared.plural import counted
from shared.wire.report import PipelineReport, UpdateState

ENTRIES_MAX = 50_000
TEXT_CHARS_MAX = 2200  # A failure's own text (2000) and what stands around it
RUNNING = "running"  # A pipeline, as a device reports it
HUB = "hub"  # Who, when nobody asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a rollout's timeline."""

    rollout_id: RolloutId
    at_ms: int
    code: str  # "wave.failed", "device.updated", "rollout.held", …
    text: str
    by: str = HUB
    device_id: DeviceId | None = None  # None: the whole rollout's
    measured: float | None = None
    limit: float | None = None

    @property
    def sentence(self) -> str:
        """Return the entry as one line for people."""
        when = datetime.fromtimestamp(self.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        whose = f"{self.device_id}: " if self.device_id else ""
        asked = "" if self.by == HUB else f" (by {self.by})"
        return f"{when} {whose}{self.text}{asked} [{self.code}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptFact:
    """What a verified receipt says, as far as `why` needs it."""

    receipt_id: int
    device_id: DeviceId
    model: ModelName
    release: ReleaseRef
    artifact_digest: str
    precision: str
    runtime: str
    golden_items: int
    golden_error_max: float
    outcome: str
    rollout: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One device's part in one rollout."""

    rollout: Rollout
    device: RolloutDevice
    entries: tuple[Entry, ...]  # The rollout's own, and this device's; oldest first


def explain_device(
    device_id: DeviceId,
    model: str,
    *,
    now: DeviceModel | None,
    receipt: ReceiptFact | None,
    parts: Iterable[Part],
    pipelines: Iterable[PipelineReport] = (),
) -> tuple[str, ...]:
    """Return why `device_id` runs what it runs of `model`: sentences, what is now first.

    Args: pipelines: all of the device's; those of `model` that do not run are told.
    """
    sentences = [_explain_now(device_id, model, now)]
    if receipt is not None:
        sentences.append(_explain_receipt(receipt))
    elif now is not None and now.version:
        sentences.append(f"It has not proved that: {now.receipt_problem or 'no receipt yet'}.")
    if now is not None and now.failure is not None:
        sentences.append(_explain_failure(now))
    if now is not None and now.state is UpdateState.TRIAL:
        sentences.append(f"Its trial has seen {counted(now.trial_items, 'item')} so far.")
    sentences.extend(
        f"Its pipeline {one.pipeline} is {one.state}{f': {one.detail}' if one.detail else '.'}"
        for one in pipelines
        if one.model == model and one.state != RUNNING
    )
    told = [_explain_part(part) for part in parts]
    if not told:
        sentences.append(f"No rollout of {model} has ever moved it.")
    return tuple(sentences) + tuple(sentence for part in told for sentence in part)


def _explain_now(device_id: DeviceId, model: str, now: DeviceModel | None) -> str:
    if now is None:
        return f"{device_id} has never reported on {model}."
    if now.version == 0:
        return f"{device_id} runs no release of {model} ({now.state})."
    precision = f" ({now.precision})" if now.precision else ""
    return f"{device_id} says that it runs {model} version {now.version}{precision}; {now.state}."


def _explain_receipt(receipt: ReceiptFact) -> str:
    return (
        f"Proved by its own key, {_when(receipt.at_ms)}: artifact {receipt.artifact_digest[:12]} "
        f"({receipt.precision}) on {receipt.runtime} reproduced {receipt.golden_items} golden "
        f"items with an error of at most {receipt.golden_error_max:.3g}; {receipt.outcome} "
        f"(receipt {receipt.receipt_id})."
    )


def _explain_failure(now: DeviceModel) -> str:
    failure = now.failure
    assert failure is not None
    undo = "" if failure.undo_ms is None else f" It was undone within {failure.undo_ms} ms."
    return (
        f"It did not keep version {failure.release.version} (rollout {failure.rollout}): "
        f"{failure.text} [{failure.code}].{undo}"
    )


def _explain_part(part: Part) -> list[str]:
    rollout, device = part.rollout, part.device
    head = f"Rollout {rollout.rollout_id} to version {rollout.release.version} is {rollout.state}; "
    wave = f"wave {device.wave + 1} of {len(rollout.wave_limits)}"
    before = "nothing" if device.previous is None else f"version {device.previous.version}"
    if device.state is DeviceState.WAITING:
        head += f"it has not reached this device, which is of {wave}."
    else:
        head += f"this device went in {wave}, ran {before} before, and is {device.state}."
    return [head, *(entry.sentence for entry in part.entries)]


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
