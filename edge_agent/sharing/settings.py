"""SharingSettings: what may leave the device. `[sharing]` of the agent's file; absent: nothing.

1. The owner decides alone: no hub, Target or Job can add to it. What is not wanted by the hub stays
   here all the same.
2. Every limit is the device's own and holds for all entries together.
"""

from typing import Annotated

from msgspec import Meta

from edge_agent.training.settings import HOUR, SampleFormat
from shared.settings import Settings
from shared.wire.device_samples import ITEM_BYTES_MAX
from shared.wire.limits import Name, Share, ShortText

ENTRIES_MAX = 32
CLASSES_MAX = 10_000
# So that what was sent in a day is always in the ledger (file_ledger.py, rule 4).
ITEMS_PER_DAY_MOST = 10_000


class SharedSamples(Settings, frozen=True):
    """Samples that may leave, and what may be said of them."""

    dataset: Name  # The hub's name for where they go
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    format: SampleFormat = SampleFormat.FOLDER
    model: Name | None = None  # Whose samples they are; for people
    with_labels: bool = False  # Also the class: the folder's name, the number in `labels`
    with_times: bool = False  # Also when the file was last written
    site: ShortText = ""  # Where this device is, as the hub's people should know it
    # What the numbers in `labels` of an .npz file mean; without it the numbers themselves are told.
    classes: Annotated[tuple[ShortText, ...], Meta(max_length=CLASSES_MAX)] = ()


class SharingSettings(Settings, frozen=True):
    """See the rules above."""

    samples: Annotated[tuple[SharedSamples, ...], Meta(min_length=1, max_length=ENTRIES_MAX)]
    # Within any 24 hours; what was sent and did not arrive counts, too.
    bytes_per_day_max: Annotated[int, Meta(ge=1)] = 50 << 20
    items_per_day_max: Annotated[int, Meta(ge=1, le=ITEMS_PER_DAY_MOST)] = 1000
    item_bytes_max: Annotated[int, Meta(ge=1, le=ITEM_BYTES_MAX)] = 4 << 20
    # Local time, "22:00" to "06:00"; empty: always.
    hours_from: Annotated[str, Meta(pattern=HOUR)] | None = None
    hours_to: Annotated[str, Meta(pattern=HOUR)] | None = None
    on_metered: bool = False  # Also over mobile and other networks that cost
    on_battery: bool = False  # Also while running from a battery
    battery_share_min: Share = 0.3  # ... and then only with at least this much left
    # How often new samples are looked for.
    poll_s: Annotated[float, Meta(ge=0.05, le=3600.0)] = 60.0

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if (self.hours_from is None) != (self.hours_to is None):
            raise ValueError("hours_from and hours_to go together")
        places = [(samples.dataset, samples.path) for samples in self.samples]
        if len(set(places)) != len(places):
            raise ValueError("two entries of samples share the same path with the same dataset")
