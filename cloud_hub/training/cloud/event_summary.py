"""What lines of a run's events add up to. Pure; the lines come from file_runs.py.

1. A process that starts again counts its device-seconds from zero; what the one before it had spent
   is kept apart, so that nothing is lost or counted twice.
2. Lines that are no events are counted and skipped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloud_hub.training.cloud.cloud_job import RunProgress
from cloud_hub.training.cloud.views import RunValue
from cloud_hub.training.trainer.run_files import (
    Evaluated,
    Event,
    Noted,
    Progressed,
    Saved,
    Started,
    decode_event,
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What some lines changed."""

    progress: RunProgress
    values: tuple[RunValue, ...]
    strange_count: int  # Lines that are no events


def summarise(progress: RunProgress, lines: Sequence[bytes]) -> Summary:
    """Return what was known of a run and what these lines say, together."""
    values: list[RunValue] = []
    strange_count = 0
    for line in lines:
        event = decode_event(line)
        if event is None:
            strange_count += 1
            continue
        progress = take(progress, event)
        if isinstance(event, Evaluated) and math.isfinite(event.value):
            values.append(RunValue(event.step, event.epoch, event.value))
    return Summary(progress, tuple(values), strange_count)


def take(progress: RunProgress, event: Event) -> RunProgress:
    """Return what is known of a run after one more event."""
    match event:
        case Started():
            return replace(
                progress,
                device=event.device,
                steps_total=event.steps_total,
                resumed_step=event.resumed_step,
                step=event.resumed_step or 0,
                device_seconds_before=progress.device_seconds,
                device_seconds_now=0.0,
            )
        case Progressed():
            return replace(
                progress,
                step=event.step,
                epoch=event.epoch,
                loss=event.loss if math.isfinite(event.loss) else None,
                items_per_s=event.items_per_s,
                memory_bytes=max(progress.memory_bytes, event.memory_bytes),
                gpu_share=event.gpu_share,
                device_seconds_now=max(progress.device_seconds_now, event.device_seconds),
            )
        case Evaluated():
            known = progress.best_value
            value = event.value if math.isfinite(event.value) else None
            best = known if value is None or (known is not None and known >= value) else value
            return replace(
                progress,
                step=event.step,
                epoch=event.epoch,
                evaluations=progress.evaluations + 1,
                last_value=value,
                best_value=best,
            )
        case Saved() | Noted():
            return progress
