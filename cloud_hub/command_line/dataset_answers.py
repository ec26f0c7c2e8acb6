"""What commands read of the hub's answers about datasets."""

import msgspec


class Version(msgspec.Struct, frozen=True):
    """What commands read of a version."""

    dataset: str
    version: int
    items_count: int
    labelled_count: int
    counts_by_part: dict[str, int]
    counts_by_class: dict[str, int]
    bytes_count: int
    lineage_id: str
    note: str
    created_ms: int
    created_by: str
    parent: int | None = None


class Dataset(msgspec.Struct, frozen=True):
    """What commands read of a dataset."""

    name: str
    kind: str
    classes: tuple[str, ...]
    newest: Version | None


class Datasets(msgspec.Struct, frozen=True):
    """Every dataset."""

    datasets: tuple[Dataset, ...]


class Versions(msgspec.Struct, frozen=True):
    """Versions of a dataset, newest first."""

    versions: tuple[Version, ...]


class Imported(msgspec.Struct, frozen=True):
    """What an import made."""

    version: Version
    layout: str
    added_count: int
    broken_count: int
    duplicates_count: int


class Collection(msgspec.Struct, frozen=True):
    """What commands read of a dataset that is open to devices."""

    dataset: str
    group: str
    is_open: bool
    items_max: int
    kind: str | None
    arrived_count: int
    waiting_count: int
    waiting_labelled_count: int
    waiting_bytes: int
    waiting_by_device: dict[str, int]


class Collections(msgspec.Struct, frozen=True):
    """Every dataset that is or was open to devices."""

    collections: tuple[Collection, ...]


class FindingRow(msgspec.Struct, frozen=True):
    """What commands read of a finding."""

    code: str
    count: int
    sentence: str


class ReportRows(msgspec.Struct, frozen=True):
    """What commands read of a cleaning report."""

    items_count: int
    broken_count: int
    findings: tuple[FindingRow, ...]


class Report(msgspec.Struct, frozen=True):
    """The answer to a question about cleaning."""

    report: ReportRows | None


class ItemRow(msgspec.Struct, frozen=True):
    """What commands read of an item."""

    index: int
    digest: str
    name: str
    part: str
    label: str | None
    boxes: tuple[msgspec.Raw, ...] | None
    device: str
    site: str


class ItemRows(msgspec.Struct, frozen=True):
    """A page of items."""

    items: tuple[ItemRow, ...]
    matching_count: int
    next_after: int | None
