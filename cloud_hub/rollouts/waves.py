"""Waves: how many devices may have the release when each wave ends, and who goes first. Pure.

1. A wave size is a count ("1") or a share ("25%") of all devices of the rollout, and it is
   cumulative: "1", "25%", "100%" means that one device goes first, then others join until a
   quarter has it, then the rest.
2. Shares are rounded down: never more devices than was said.
3. A wave that would add nobody falls away: a quarter of 3 devices is no more than the first one.
4. The last wave reaches everyone.
"""

import hashlib
import math
import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass

from shared.errors import ContractError
from shared.ids import DeviceId, RolloutId
from shared.plural import counted

WAVES_MAX = 20
WAVE_DEVICES_MAX = 1_000_000
_SIZE = re.compile(r"^(?:(?P<count>[0-9]{1,7})|(?P<share>[0-9]{1,3}(?:\.[0-9]{1,6})?) ?%)$")


@dataclass(frozen=True, slots=True)
class WaveSize:
    """How many devices have the release when the wave ends; exactly one of the two is set."""

    count: int | None = None
    share: float | None = None  # 0 < share <= 1

    def __str__(self) -> str:
        """Return the form that `parse_wave` reads."""
        if self.share is not None:
            return f"{self.share * 100:.6f}".rstrip("0").rstrip(".") + "%"
        return str(self.count)

    def of(self, devices_count: int) -> int:
        """Return the size for a rollout of `devices_count` devices."""
        if self.share is not None:
            # The small number repairs 0.3 * 10 == 3.0000000000000004 and its like downwards.
            return min(devices_count, math.floor(self.share * devices_count + 1e-9))
        return min(devices_count, self.count or 0)


DEFAULT_WAVES = (WaveSize(count=1), WaveSize(share=0.25), WaveSize(share=1.0))


def parse_wave(text: str) -> WaveSize:
    """Return "3" or "25%" as a WaveSize. Raises ContractError `rollout.waves`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise _invalid(f"{text[:40]!r} is neither a number of devices nor a share.")
    if match["count"] is not None:
        return WaveSize(count=int(match["count"]))
    return WaveSize(share=float(match["share"]) / 100)


def check_waves(waves: Sequence[WaveSize]) -> None:
    """Raise ContractError `rollout.waves` if the sizes make no sense whatever the fleet."""
    if not 1 <= len(waves) <= WAVES_MAX:
        raise _invalid(f"There must be 1 to {WAVES_MAX} of them.")
    for wave in waves:
        if (wave.count is None) == (wave.share is None):
            raise _invalid("Each needs a count or a share, not both.")
        if wave.count is not None and not 1 <= wave.count <= WAVE_DEVICES_MAX:
            raise _invalid(f"A count must be from 1 to {WAVE_DEVICES_MAX}.")
        if wave.share is not None and not 0.0 < wave.share <= 1.0:
            raise _invalid("A share must be above 0 % and at most 100 %.")
    counts = [wave.count for wave in waves if wave.count is not None]
    shares = [wave.share for wave in waves if wave.share is not None]
    if counts != sorted(set(counts)) or shares != sorted(set(shares)):
        raise _invalid("Each must be more than the one before it.")


def wave_limits(waves: Sequence[WaveSize], devices_count: int) -> tuple[int, ...]:
    """Return for each wave how many devices may have the release by its end; strictly rising.

    Raises ContractError `rollout.waves` if the sizes do not reach all devices.
    """
    limits: list[int] = []
    for wave in waves:
        size = wave.of(devices_count)
        if size > (limits[-1] if limits else 0):
            limits.append(size)
    reached = limits[-1] if limits else 0
    if reached < devices_count:
        raise _invalid(f"The last one reaches {reached} of {counted(devices_count, 'device')}.")
    return tuple(limits)


def wave_of(position: int, limits: Sequence[int]) -> int:
    """Return the index of the wave that the device at `position` (from 0) goes with."""
    return next(index for index, limit in enumerate(limits) if position < limit)


def sort_devices(
    devices: Collection[DeviceId], *, online: Container[DeviceId], rollout_id: RolloutId
) -> tuple[DeviceId, ...]:
    """Return devices in the order they go: those that are online first, else by chance.

    By a hash of both ids, so that the same device is not the canary of every rollout.
    """

    def rank(device_id: DeviceId) -> tuple[bool, bytes]:
        chance = hashlib.sha256(f"{rollout_id}/{device_id}".encode()).digest()
        return device_id not in online, chance

    return tuple(sorted(devices, key=rank))


def _invalid(problem: str) -> ContractError:
    return ContractError(
        "rollout.waves",
        f"waves: {problem}",
        remedy='Give rising sizes that end with everyone, such as "1", "25%", "100%".',
    )
