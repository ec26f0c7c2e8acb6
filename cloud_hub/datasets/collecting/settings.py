"""Settings of collecting: how much devices may send, and how much may wait."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings


class CollectionSettings(Settings, frozen=True):
    """Limits; what one sample may have is the wire's (shared/wire/device_samples.py)."""

    items_per_device_day_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    bytes_per_device_day_max: Annotated[int, Meta(ge=1 << 10, le=1 << 40)] = 1 << 30
    # Of all that has arrived and is in no version yet.
    waiting_bytes_max: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] = 50 << 30
    free_bytes_min: Annotated[int, Meta(ge=0)] = 1 << 30  # Of the disk they lie on
    # For how long a device whose samples are not wanted does not ask again.
    not_wanted_s: Annotated[float, Meta(ge=1.0, le=30 * 86_400.0)] = 6 * 3600.0
