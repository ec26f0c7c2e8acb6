"""What the API says of datasets, their versions and items, and what it takes."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import Field, JsonValue

from cloud_hub.api.bodies import AnswerBody, RequestBody
from cloud_hub.candidates.dataset_evaluation import ITEMS_DEFAULT, ITEMS_MAX
from cloud_hub.datasets.dataset import Dataset, DatasetVersion
from cloud_hub.datasets.item_page import ItemPage
from cloud_hub.datasets.manifest import BOXES_MAX, Item, Manifest
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.relabelling import LabelChange
from cloud_hub.datasets.service import Imported
from shared.errors import ContractError
from shared.ids import NAME_PATTERN
from shared.settings import Settings
from shared.wire.limits import Digest, Share, ShortText

LABELS_MAX = 100_000  # In one request
PATH_CHARS_MAX = 1000


class VersionOut(AnswerBody):
    """One version of a dataset."""

    dataset: str
    version: int
    digest: str = Field(description="SHA-256 of its manifest: what it holds, whole")
    parent: int | None
    items_count: int
    labelled_count: int
    counts_by_part: dict[str, int] = Field(examples=[{"train": 70, "validation": 15, "test": 15}])
    counts_by_class: dict[str, int]
    bytes_count: int
    lineage_id: str
    note: str
    created_ms: int
    created_by: str


class DatasetOut(AnswerBody):
    """One dataset."""

    name: str
    kind: str
    classes: tuple[str, ...]
    owner: str
    created_ms: int
    newest: VersionOut | None


class DatasetsOut(AnswerBody):
    """Every dataset, by name."""

    datasets: tuple[DatasetOut, ...]


class VersionsOut(AnswerBody):
    """A dataset's versions, newest first."""

    versions: tuple[VersionOut, ...]


class ImportedOut(AnswerBody):
    """What an import made."""

    version: VersionOut
    layout: str = Field(description="What the source was taken for")
    added_count: int
    broken_count: int
    duplicates_count: int = Field(description="Left out: their bytes are there already")


class ReportOut(AnswerBody):
    """What cleaning found when the items came in."""

    report: dict[str, JsonValue] | None


class BoxOut(AnswerBody):
    """One object on a picture: corners as shares of its width and height."""

    class_name: str
    left: float
    top: float
    right: float
    bottom: float


class ItemOut(AnswerBody):
    """One item of a version."""

    index: int
    digest: str
    name: str
    part: Literal["train", "validation", "test"]
    label: str | None
    boxes: tuple[BoxOut, ...] | None
    device: str
    site: str
    group: str
    captured_ms: int | None
    bytes_count: int


class ItemsOut(AnswerBody):
    """A page of items."""

    items: tuple[ItemOut, ...]
    matching_count: int = Field(description="Of all pages")
    next_after: int | None = Field(description="`after` of the next page")


class FolderImport(RequestBody):
    """A folder of the hub's own machine to import from."""

    path: str = Field(max_length=PATH_CHARS_MAX)
    rule: dict[str, JsonValue] = Field(default_factory=dict, description="See the upload's `rule`")
    is_added: bool = False


class EvaluationOrderBody(RequestBody):
    """Whose candidates are to be measured on a version's test part."""

    model: str = Field(pattern=NAME_PATTERN)
    checkpoint_id: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="Whose spec says input and classes; else the newest checkpoint or release",
    )
    items_max: int = Field(default=ITEMS_DEFAULT, ge=1, le=ITEMS_MAX)


class NewBox(Settings, frozen=True):
    """A box that somebody drew."""

    class_name: ShortText
    left: Share
    top: Share
    right: Share
    bottom: Share


class NewLabel(Settings, frozen=True):
    """What somebody says of one item: a class, boxes, or with neither that it is not labelled."""

    digest: Digest
    label: ShortText | None = None
    boxes: Annotated[tuple[NewBox, ...], Meta(max_length=BOXES_MAX)] | None = None


class NewLabels(Settings, frozen=True):
    """The body of a call that labels."""

    labels: Annotated[tuple[NewLabel, ...], Meta(min_length=1, max_length=LABELS_MAX)]


def changes_of(labels: NewLabels) -> dict[str, LabelChange]:
    """Return what is to change, by item. Raises ContractError `request.invalid`."""
    changes: dict[str, LabelChange] = {}
    for label in labels.labels:
        if label.label is not None and label.boxes is not None:
            raise ContractError(
                "request.invalid", f"Item {label.digest[:12]}: give a label or boxes, not both."
            )
        change: LabelChange = label.label
        if label.boxes is not None:
            change = tuple(
                RawBox(box.class_name, box.left, box.top, box.right, box.bottom)
                for box in label.boxes
            )
        changes[label.digest] = change
    return changes


def dataset_out(dataset: Dataset) -> DatasetOut:
    """Return a dataset in the form of the API."""
    return DatasetOut(
        name=dataset.name,
        kind=dataset.kind.value,
        classes=dataset.classes,
        owner=dataset.owner,
        created_ms=dataset.created_ms,
        newest=version_out(dataset.newest) if dataset.newest is not None else None,
    )


def version_out(version: DatasetVersion) -> VersionOut:
    """Return a version in the form of the API."""
    return VersionOut(
        dataset=version.dataset,
        version=version.version,
        digest=version.digest,
        parent=version.parent,
        items_count=version.items_count,
        labelled_count=version.labelled_count,
        counts_by_part={part.value: count for part, count in version.counts_by_part.items()},
        counts_by_class=dict(version.counts_by_class),
        bytes_count=version.bytes_count,
        lineage_id=version.lineage_id,
        note=version.note,
        created_ms=version.created_ms,
        created_by=version.created_by,
    )


def imported_out(imported: Imported) -> ImportedOut:
    """Return what an import made in the form of the API."""
    return ImportedOut(
        version=version_out(imported.version),
        layout=imported.layout,
        added_count=imported.added_count,
        broken_count=imported.broken_count,
        duplicates_count=imported.duplicates_count,
    )


def items_out(manifest: Manifest, page: ItemPage) -> ItemsOut:
    """Return a page of items in the form of the API."""
    return ItemsOut(
        items=tuple(_item_out(manifest, index, item) for index, item in page.items),
        matching_count=page.matching_count,
        next_after=page.next_after,
    )


def plain_report(report: msgspec.Struct | None) -> dict[str, JsonValue] | None:
    """Return a cleaning report as JSON has it."""
    if report is None:
        return None
    found: dict[str, JsonValue] = msgspec.to_builtins(report)
    # Tuples are no JSON values to pydantic.
    decoded: dict[str, JsonValue] = msgspec.json.decode(msgspec.json.encode(found))
    return decoded


def _item_out(manifest: Manifest, index: int, item: Item) -> ItemOut:
    classes = manifest.classes
    boxes = None
    if item.boxes is not None:
        boxes = tuple(
            BoxOut(
                class_name=classes[box.class_index],
                left=box.left,
                top=box.top,
                right=box.right,
                bottom=box.bottom,
            )
            for box in item.boxes
        )
    return ItemOut(
        index=index,
        digest=item.digest,
        name=item.name,
        part=item.part.value,
        label=classes[item.label] if item.label is not None else None,
        boxes=boxes,
        device=item.device,
        site=item.site,
        group=item.group,
        captured_ms=item.captured_ms,
        bytes_count=item.bytes_count,
    )
