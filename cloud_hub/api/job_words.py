"""Sentences about Jobs, for every page and command alike. Pure.

1. What a device or a rule said itself is kept as it was said; only what nobody put into words is
   put into words here.
2. A sentence ends with a full stop and names what was measured where that is known.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cloud_hub.training.job import Job, JobDevice, JobState, Outcome
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.order import JobOrder
from shared.plural import counted
from shared.wire.report import LearningState

MEGABYTE = 1_000_000
# What a person can do about a code; the device's own text says the particulars.
DEVICE_CODES: Mapping[str, str] = MappingProxyType(
    {
        "policy.absent": "its agent's file does not let it learn",
        "policy.model": "its owner gives no samples of this model",
        "policy.job": "its owner's policy does not allow this Job",
        "policy.noise": "its owner wants noise on every update, and this Job has none",
        "budget.spent": "its lifetime privacy budget is spent",
        "ledger.busy": "its privacy ledger is in use just now",
        "ledger.damaged": "its privacy ledger cannot be trusted",
        "ledger.full": "its privacy ledger holds as many models as it can",
        "learning.not_installed": "what learning needs is not installed on it",
        "eligibility.battery": "it runs on battery",
        "eligibility.battery_level": "its battery is too low",
        "eligibility.temperature": "it is too hot",
        "eligibility.load": "it is too busy",
        "eligibility.metered": "its network is one that costs",
        "eligibility.samples": "it has too few samples",
        "eligibility.hours": "it learns only at other hours",
        "eligibility.clock": "its clock is wrong",
        "eligibility.memory": "it has too little free memory",
        "eligibility.over": "the time for this Job is over",
        "eligibility.other_address": "it learns with another hub address now",
    }
)
_STATES: Mapping[LearningState, str] = MappingProxyType(
    {
        LearningState.REFUSED: "Refused",
        LearningState.WAITING: "Waiting",
        LearningState.JOINING: "Starting its learning process, or looking for the hub again",
        LearningState.READY: "Ready",
    }
)
_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "policy": "its owner's policy says no",
        "budget": "its privacy budget is spent",
        "ledger": "its privacy ledger cannot be trusted",
        "eligibility": "its own rules say not now",
    }
)


def job_text(job: Job) -> str:
    """Return how a Job stands."""
    match job.state:
        case JobState.SUBMITTED:
            return "It waits for a person to approve it."
        case JobState.APPROVED:
            return "It is approved and will be given to the devices."
        case JobState.DISPATCHED:
            return "Devices have been told; it waits until enough of them have come."
        case JobState.RUNNING:
            return f"Round {min(job.rounds_done + 1, job.order.rounds)} of {job.order.rounds} runs."
        case JobState.FINISHED:
            return f"{_ending(job)} {_came_of_it(job)}".strip()


def whom_text(order: JobOrder) -> str:
    """Return whom an order asks."""
    if order.group is not None:
        return f"group {order.group}"
    count = len(order.devices)
    return f"{count} named device{'' if count == 1 else 's'}" if count else "every device"


def device_text(device: JobDevice) -> str:
    """Return what a device does in a Job, or in plain words why it does nothing."""
    if device.state is None and device.rounds_answered:
        said = f"It has answered {_rounds(device.rounds_answered)}"
    elif device.state is None:
        said = "It has not said anything about this Job yet: offline, or an older agent"
    else:
        said = _STATES[device.state]
        why = _why(device)
        said = f"{said}: {why}" if why else said
    refused = device.updates_refused
    if refused:
        said = f"{said}. {refused} of its updates {'was' if refused == 1 else 'were'} refused"
    return said if said.endswith((".", "!", "?")) else f"{said}."


def code_text(code: str) -> str:
    """Return a device's code in plain words; empty for one that nobody knows."""
    return DEVICE_CODES.get(code) or _FAMILIES.get(code.partition(".")[0], "")


def event_text(event: JobEvent) -> str:
    """Return what happened."""
    numbers, about = event.numbers, f"Round {event.round}"
    match event.code:
        case "job.started":
            return f"Attempt {_count(numbers, 'attempt')} started{_after(numbers)}."
        case "job.resumed":
            kept = _count(numbers, "updates_kept")
            return f"Resumed{_after(numbers)}; kept: {counted(kept, 'update')} that had come."
        case "job.ended":
            return f"Ended{_after(numbers)}. {event.text}".strip()
        case "round.gathering":
            there, wanted = _count(numbers, "devices_there"), _count(numbers, "devices_min")
            return f"{about} waits for devices: {there} of at least {wanted} are there."
        case "round.started":
            return f"{about} asks {counted(_count(numbers, 'devices_asked'), 'device')}."
        case "round.closed":
            return _closed(event)
        case "privacy.paid":
            return (
                f"{about}: its noise is paid for, epsilon {numbers.get('epsilon', 0.0):.2f} so far."
            )
        case "round.repeated":
            valid, quorum = _count(numbers, "devices_counted"), _count(numbers, "quorum")
            return f"{about} is asked again: {valid} valid answers, {quorum} are needed."
        case "update.accepted":
            return f"{about}: its update counts{_particulars(numbers)}."
        case "update.refused":
            return f"{about}: its update was refused: {_sentence(event.text)}"
        case "device.silent":
            return f"{about}: no answer within {numbers.get('wait_s', 0.0):.0f} s."
        case "device.failed":
            return f"{about}: it could not: {_sentence(event.text)}"
        case "evaluation":
            return f"{about}: its accuracy is {_share(numbers.get('accuracy_before'))}."
        case _:
            return event.text or event.code


def bytes_text(count: float) -> str:
    """Return a number of bytes in its fitting unit."""
    for unit, size in (("GB", 1000 * MEGABYTE), ("MB", MEGABYTE), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _why(device: JobDevice) -> str:
    if device.state is LearningState.READY:
        rounds = device.rounds_answered
        return f"it has answered {_rounds(rounds)}" if rounds else ""
    known = code_text(device.code)
    return " - ".join(part for part in (known, device.text.strip()) if part)


def _rounds(count: int) -> str:
    return counted(count, "Round")


def _ending(job: Job) -> str:
    rounds = f"{job.rounds_done} of {counted(job.order.rounds, 'Round')}"
    said = f" {_sentence(job.text)}" if job.text else ""
    match job.outcome:
        case Outcome.COMPLETED:
            return f"Completed after {rounds}.{said}"
        case Outcome.STOPPED:
            return f"Stopped by a person after {rounds}.{said}"
        case Outcome.FAILED | None:
            return f"Failed after {rounds}.{said}"


def _came_of_it(job: Job) -> str:
    if job.release_version is not None:
        return f"What it learned is release {job.model} v{job.release_version}."
    if job.candidate_id is not None:
        return "What it learned was refused by the gate."
    if job.result_checkpoint_id is not None and job.order.is_released:
        return "What it learned is kept as a checkpoint; no release came of it."
    if job.result_checkpoint_id is not None:
        return "What it learned is kept as a checkpoint, as ordered."
    return ""


def _closed(event: JobEvent) -> str:
    numbers = event.numbers
    taken, asked = _count(numbers, "devices_counted"), _count(numbers, "devices_asked")
    parts = [f"{taken} of {counted(asked, 'device')} counted"]
    if "seconds" in numbers:
        parts.append(f"{numbers['seconds']:.1f} s")
    if "bytes_up" in numbers:
        parts.append(f"{bytes_text(numbers['bytes_up'])} up")
    if "epsilon" in numbers:
        parts.append(f"epsilon {numbers['epsilon']:.2f} so far")
    return f"Round {event.round} is closed: {', '.join(parts)}."


def _particulars(numbers: Mapping[str, float]) -> str:
    parts = []
    if "samples_count" in numbers:
        parts.append(f"{numbers['samples_count']:.0f} samples")
    if "payload_bytes" in numbers:
        parts.append(bytes_text(numbers["payload_bytes"]))
    before, after = numbers.get("accuracy_before"), numbers.get("accuracy_after")
    if before is not None and after is not None:
        parts.append(f"accuracy {_share(before)} to {_share(after)} by training")
    late = numbers.get("rounds_late", 0.0)
    if late:
        parts.append(f"{late:.0f} Round{'s' if late > 1 else ''} late, so it weighs less")
    return f" ({', '.join(parts)})" if parts else ""


def _after(numbers: Mapping[str, float]) -> str:
    done = _count(numbers, "rounds_done")
    return f" after {counted(done, 'Round')}" if done else ""


def _count(numbers: Mapping[str, float], name: str) -> int:
    return int(numbers.get(name, 0))


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 100:.1f} %"


def _sentence(text: str) -> str:
    said = text.strip() or "no reason was given"
    return said if said.endswith((".", "!", "?")) else f"{said}."
