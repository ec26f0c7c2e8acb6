"""What is asked of the process that makes a version, and what it answers. Values only.

1. `order.json` lies in a folder of its own; the process writes `made.json` beside it, and packs,
   manifest and report into the object store. Nothing of a version is known to anyone before the hub
   has read `made.json` and written the version down.
2. Where `base` is named, its items stay, in the parts they are in, and new ones are added.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.datasets.manifest import FOLDER, ItemKind, Part
from cloud_hub.datasets.readers.options import ReaderOptions, SourceLayout
from cloud_hub.datasets.splits import SplitBy, SplitRule
from shared.settings import Settings
from shared.wire.limits import Count, Digest, Name

ORDER = "order.json"
MADE = "made.json"
REPORTS = f"{FOLDER}/reports"


class ImportRule(Settings, frozen=True):
    """How a source becomes items; everything has a default that suits a well-formed source."""

    layout: SourceLayout | None = None  # None: looked at, and told in the version's note
    options: ReaderOptions = ReaderOptions()
    # None: parts that the source itself says; what it does not say is split by groups.
    split_by: SplitBy | None = None
    train: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.7
    validation: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.15
    test: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.15
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    keeps_duplicates: bool = False  # Items with the same bytes: all of them, or the first

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        self.split_rule()

    def split_rule(self) -> SplitRule:
        """Return the rule for items whose part the source does not say."""
        return SplitRule(
            by=self.split_by or SplitBy.GROUP,
            train=self.train,
            validation=self.validation,
            test=self.test,
            seed=self.seed,
        )


class ImportOrder(msgspec.Struct, frozen=True, tag="import"):
    """A source to be read."""

    objects: str  # Where packs go: ObjectStore.place
    dataset: Name
    source: str  # A folder, a file, or an archive
    is_archive: bool
    rule: ImportRule
    base: Digest | None  # Manifest of the version that is added to
    bytes_max: Count  # Of all items together
    seconds_max: Annotated[int, Meta(ge=1)]  # Of processor time
    memory_bytes_max: Count


class ResplitOrder(msgspec.Struct, frozen=True, tag="resplit"):
    """A version whose items are to be put into parts anew."""

    objects: str
    base: Digest
    rule: SplitRule
    seconds_max: Annotated[int, Meta(ge=1)]
    memory_bytes_max: Count


class Problem(msgspec.Struct, frozen=True):
    """Why nothing was made: one of the five families of errors."""

    family: str
    code: str
    message: str
    remedy: str


class PackFacts(msgspec.Struct, frozen=True):
    """One pack that a manifest names."""

    digest: Digest
    bytes_count: Count


class ManifestFacts(msgspec.Struct, frozen=True):
    """What the hub writes down of a manifest, so that it need not read it."""

    digest: Digest
    kind: ItemKind
    classes: tuple[str, ...]
    items_count: Count
    labelled_count: Count
    counts_by_part: dict[Part, int]
    counts_by_class: dict[str, int]
    bytes_count: Count
    packs: tuple[PackFacts, ...]


class Made(msgspec.Struct, frozen=True):
    """What came of an order: a problem, or a version."""

    problem: Problem | None = None
    facts: ManifestFacts | None = None
    layout: str = ""
    added_count: Count = 0
    broken_count: Count = 0
    duplicates_count: Count = 0  # Left out


Order = ImportOrder | ResplitOrder


def report_path(manifest_digest: str) -> str:
    """Return where a version's cleaning report lies in the object store."""
    return f"{REPORTS}/{manifest_digest}.json"
