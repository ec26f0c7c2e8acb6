"""Dataset and DatasetVersion: what is known of them without reading a manifest. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

from cloud_hub.datasets.manifest import ItemKind, Part
from shared.ids import LineageId

DatasetName = NewType("DatasetName", str)


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One immutable version; its manifest lies in the object store under `digest`."""

    dataset: DatasetName
    version: int  # From 1
    digest: str  # Of the manifest
    parent: int | None  # The version it was made from
    items_count: int
    labelled_count: int
    counts_by_part: Mapping[Part, int]
    counts_by_class: Mapping[str, int]  # Of labelled items (detection: of boxes)
    bytes_count: int  # Of the items
    lineage_id: LineageId
    note: str  # What made it: "imported from folder cats", "42 labels by anna"
    created_ms: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named line of versions of one kind."""

    name: DatasetName
    kind: ItemKind
    classes: tuple[str, ...]
    owner: str
    created_ms: int
    newest: DatasetVersion | None
