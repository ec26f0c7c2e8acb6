"""RolloutView: one rollout as people look at it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.rollouts.judge import Counts, count_devices
from cloud_hub.rollouts.rollout import DeviceState, Rollout, RolloutDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveView:
    """One wave, counted."""

    index: int  # From 0
    limit: int  # How many devices of the rollout may have the release when it ends
    devices_count: int  # Planned to go with it, those that do not count included
    counts: Counts
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One rollout with its waves and every device's place."""

    rollout: Rollout
    waves: tuple[WaveView, ...]
    devices: tuple[RolloutDevice, ...]
    total: Counts


def view_rollout(rollout: Rollout, devices: Sequence[RolloutDevice]) -> RolloutView:
    """Return a rollout and its devices, counted by wave."""
    return RolloutView(
        rollout=rollout,
        waves=tuple(
            _view_wave(index, limit, [d for d in devices if d.wave == index])
            for index, limit in enumerate(rollout.wave_limits)
        ),
        devices=tuple(devices),
        total=count_devices(devices),
    )


def _view_wave(index: int, limit: int, devices: Sequence[RolloutDevice]) -> WaveView:
    return WaveView(
        index=index,
        limit=limit,
        devices_count=len(devices),
        counts=count_devices(devices),
        waiting=sum(device.state is DeviceState.WAITING for device in devices),
    )
