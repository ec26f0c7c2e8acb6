"""AccuracySpread: how a Job changed accuracy over its devices: not only a mean. Pure.

1. Before: the Job's first weights on a device's own held-out samples. After: its last ones, with
   the parameters that stay on that device, where the model has such.
2. Only what devices told: how many did not is always beside it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cloud_hub.training.job import JobDevice, JobId
from shared.ids import DeviceId


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values of some devices; quartiles by linear interpolation."""

    count: int
    mean: float
    minimum: float
    quartile_1: float
    median: float
    quartile_3: float
    maximum: float


@dataclass(frozen=True, slots=True)
class DeviceAccuracy:
    """One device's accuracy; None: not told."""

    device_id: DeviceId
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class AccuracySpread:
    """See the rules above. A distribution is None where no device told."""

    job_id: JobId
    devices_count: int
    before: Distribution | None
    after: Distribution | None
    change: Distribution | None  # After minus before, of those that told both
    worse_count: int  # Of those that told both: after below before
    devices: tuple[DeviceAccuracy, ...]


def spread_over(job_id: JobId, devices: Iterable[JobDevice]) -> AccuracySpread:
    """Return the distribution over a Job's devices."""
    told = tuple(
        DeviceAccuracy(device.device_id, device.accuracy_before, device.accuracy_after)
        for device in devices
    )
    changes = [d.after - d.before for d in told if d.before is not None and d.after is not None]
    return AccuracySpread(
        job_id=job_id,
        devices_count=len(told),
        before=_distribute([d.before for d in told if d.before is not None]),
        after=_distribute([d.after for d in told if d.after is not None]),
        change=_distribute(changes),
        worse_count=sum(change < 0 for change in changes),
        devices=told,
    )


def _distribute(values: Sequence[float]) -> Distribution | None:
    if not values:
        return None
    quartiles = np.quantile(np.asarray(values, np.float64), (0.0, 0.25, 0.5, 0.75, 1.0))  # (5,)
    low, first, median, third, high = (float(value) for value in quartiles)
    return Distribution(len(values), float(np.mean(values)), low, first, median, third, high)
