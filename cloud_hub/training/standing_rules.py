"""What the SuperLink's standing and a Job's own files mean for the Job, and what to want. Pure.

1. A result counts before everything else: the ServerApp writes it last, and a run that ended after
   it has done its work.
2. A run of an older attempt says nothing. A run that is not there yet says nothing: the SuperLink
   starts it as soon as it has carried out what is wanted.
3. Devices may take part until `until_ms`, which is put off while the Job lives: a hub that is gone
   for good lets its devices go.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.training.job import JobId, JobState
from cloud_hub.training.job_folder import (
    JobResult,
    RunStanding,
    Standing,
    WantedNode,
    WantedRun,
)
from cloud_hub.training.lifecycle import Event, lost_event
from cloud_hub.training.record import JobRecord
from shared.ids import DeviceId
from shared.wire.target import LEARNING_MAX, LearningOrder

LEASE_MS = 24 * 3600 * 1000  # How long devices learn on without hearing of it again
LEASE_LEFT_MS_MIN = LEASE_MS // 2
ENDED = "finished"  # Flower's word for a run's last status


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of a Job's run: an event of its life, and why."""

    event: Event
    code: str
    text: str
    rounds_done: int | None = None


def judge_run(
    record: JobRecord, standing: Standing | None, result: JobResult | None
) -> Finding | None:
    """Return what has happened to a live Job; None: nothing new."""
    if result is not None:
        event = Event.COMPLETED if result.is_completed else Event.FAILED
        return Finding(event, result.code, result.text, result.rounds_done)
    run = find_run(record, standing)
    if run is None or run.attempt != record.job.attempt:
        return None
    if run.status == ENDED:
        why = run.details or run.sub_status or "it did not say why"
        event = lost_event(record.job.attempt)
        if event is Event.GAVE_UP:
            text = f"Its run ended without a result {record.job.attempt} times; at last: {why}"
            return Finding(event, "job.attempts_spent", text)
        text = f"Attempt {record.job.attempt} ended without a result: {why}"
        return Finding(event, "job.run_lost", text)
    is_seen = record.job.state is JobState.RUNNING or run.status == "pending"
    return None if is_seen else Finding(Event.RUN_SEEN, "", "")


def find_run(record: JobRecord, standing: Standing | None) -> RunStanding | None:
    """Return the newest run that the SuperLink has of a Job."""
    if standing is None:
        return None
    runs = [run for run in standing.runs if run.job == record.job.job_id]
    return max(runs, key=lambda run: run.attempt, default=None)


def has_let_go(record: JobRecord, standing: Standing | None) -> bool:
    """Whether no run of a Job writes into its folder any more, as far as can be told."""
    if standing is None:
        return True
    runs = [run for run in standing.runs if run.job == record.job.job_id]
    return all(run.status == ENDED for run in runs)


def wanted_nodes(members: Iterable[DeviceId], keys: Mapping[DeviceId, str]) -> list[WantedNode]:
    """Return the devices that may use the Fleet API, in order of id."""
    return [
        WantedNode(device=device_id, public_key_pem=keys[device_id])
        for device_id in sorted(set(members))
        if device_id in keys
    ]


def wanted_run(record: JobRecord, folder: Path, *, now_ms: int) -> WantedRun | None:
    """Return the run that a live Job wants now; None while it waits for its next attempt."""
    if now_ms < record.retry_ms:
        return None
    return WantedRun(job=record.job.job_id, attempt=record.job.attempt, folder=str(folder))


def next_until_ms(record: JobRecord, *, now_ms: int) -> int:
    """Return until when devices may take part: the same as before, unless that comes near."""
    left_ms = record.until_ms - now_ms
    is_good = LEASE_LEFT_MS_MIN <= left_ms <= LEASE_MS  # A clock that was put back shows here
    return record.until_ms if is_good else now_ms + LEASE_MS


def compose_orders(
    told: Iterable[JobRecord], members: Mapping[JobId, Iterable[DeviceId]]
) -> dict[DeviceId, tuple[LearningOrder, ...]]:
    """Return what each device's Target asks it to learn: its oldest LEARNING_MAX Jobs.

    Args: told: live Jobs with a port, oldest first. members: who takes part in each.
    """
    orders: dict[DeviceId, list[LearningOrder]] = {}
    for record in told:
        order = to_order(record)
        for device_id in members.get(record.job.job_id, ()):
            found = orders.setdefault(device_id, [])
            if len(found) < LEARNING_MAX:
                found.append(order)
    return {device_id: tuple(found) for device_id, found in orders.items()}


def to_order(record: JobRecord) -> LearningOrder:
    """Return what a device is told of a Job. Its port is known."""
    assert record.fleet_port is not None
    order = record.job.order
    privacy = order.local_privacy
    return LearningOrder(
        job=record.job.job_id,
        model=record.job.model,
        host=record.fleet_host,
        port=record.fleet_port,
        until_ms=record.until_ms,
        samples_min=order.samples_min,
        noise_multiplier=privacy.noise_multiplier if privacy is not None else None,
    )
