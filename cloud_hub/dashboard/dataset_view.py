"""What the pages about datasets show, gathered from the services."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.api.services import Services
from cloud_hub.datasets import label_draft
from cloud_hub.datasets.cleaning_report import CleaningReport, FindingCode
from cloud_hub.datasets.dataset import Dataset, DatasetVersion
from cloud_hub.datasets.item_page import ItemFilter
from cloud_hub.datasets.label_draft import ItemLabel
from cloud_hub.datasets.label_drafts import LabelDrafts
from cloud_hub.datasets.manifest import Item, ItemKind, Manifest, Part

ITEMS_SHOWN = 48
CLASSES_SHOWN = 60
CLASSES_NAMED = 3
CLASSES_OFFERED = 500  # In a list to choose from
DEVICES_SHOWN = 200
EXAMPLES_SHOWN = 8
EXCERPT_CHARS = 220
TEXT_CHARS = 20_000
BAR_UNITS = 1000.0
BAD_FINDINGS = frozenset(
    {FindingCode.LEAK_DIGEST, FindingCode.LEAK_GROUP, FindingCode.LABEL_CONFLICT}
)
QUIET_FINDINGS = frozenset({FindingCode.UNLABELLED, FindingCode.DUPLICATE})


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One dataset in the list."""

    dataset: Dataset
    labelled_share: float | None
    classes_text: str


@dataclass(frozen=True, slots=True)
class BarPart:
    """What one part has of a class; start and width in BAR_UNITS."""

    part: str
    count: int
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How many items, or boxes, of a class each part has."""

    name: str
    count: int
    parts: tuple[BarPart, ...]


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding in words; of its examples those that are items have a position."""

    sentence: str
    tone: str
    count: int
    examples: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """One item in the grid."""

    index: int
    item: Item
    said: ItemLabel
    text: str = ""  # The beginning of a message


@dataclass(frozen=True, slots=True)
class DatasetPage:
    """One version of a dataset."""

    dataset: Dataset
    version: DatasetVersion
    versions: tuple[DatasetVersion, ...]
    kind: str
    classes: tuple[str, ...]
    split_rule: str
    labelled_share: float | None
    rows: tuple[ClassRow, ...]
    rows_hidden_count: int
    counts_boxes: bool
    report: CleaningReport | None
    findings: tuple[FindingRow, ...]
    tiles: tuple[Tile, ...]
    matching_count: int
    next_after: int | None
    devices: tuple[str, ...]
    models: tuple[str, ...]
    draft_count: int

    @property
    def classes_offered(self) -> tuple[str, ...]:
        """Return the classes that items may be chosen by."""
        return self.classes[:CLASSES_OFFERED]

    @property
    def is_newest(self) -> bool:
        """Return whether what changes a dataset starts from this version."""
        return self.versions[0].version == self.version.version


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item, large."""

    dataset: Dataset
    version: DatasetVersion
    kind: str
    index: int
    items_count: int
    item: Item
    said: ItemLabel
    text: str
    window_shape: tuple[int, ...]


def view_datasets(services: Services) -> tuple[DatasetRow, ...]:
    """Return every dataset."""
    return tuple(
        DatasetRow(
            dataset=dataset,
            labelled_share=_share(dataset.newest),
            classes_text=_named(dataset.classes),
        )
        for dataset in services.datasets.list()
    )


def view_dataset(
    services: Services,
    name: str,
    number: int | None,
    wanted: ItemFilter,
    *,
    after: int,
    operator: str,
) -> DatasetPage:
    """Return one version of a dataset, the newest where no number is given, and a page of items.

    Raises RefusedError `dataset.unknown` or `dataset_version.unknown`, ContractError
    `dataset.class`, IntegrityError `dataset.damaged`, TransientError.
    """
    datasets = services.datasets
    version = datasets.version(name, number)
    manifest = datasets.manifest(version)
    page = datasets.items(version, wanted, after=after, limit=ITEMS_SHOWN)
    report = datasets.report(version)
    rows = class_rows(manifest)
    drafts = LabelDrafts(services.database, datasets, services.clock)
    return DatasetPage(
        dataset=datasets.get(name),
        version=version,
        versions=datasets.versions(name),
        kind=manifest.kind.value,
        classes=manifest.classes,
        split_rule=manifest.split_rule,
        labelled_share=_share(version),
        rows=rows[:CLASSES_SHOWN],
        rows_hidden_count=max(0, len(rows) - CLASSES_SHOWN),
        counts_boxes=any(item.boxes for item in manifest.items),
        report=report,
        findings=finding_rows(report, manifest),
        tiles=tuple(_tile(services, manifest, index, item) for index, item in page.items),
        matching_count=page.matching_count,
        next_after=page.next_after,
        devices=_devices(manifest),
        models=known_models(services),
        draft_count=drafts.count(operator, name),
    )


def view_item(services: Services, name: str, number: int, index: int) -> ItemView:
    """Return one item. Raises RefusedError `dataset_item.unknown`, and as `view_dataset`."""
    version = services.datasets.version(name, number)
    manifest = services.datasets.manifest(version)
    text = ""
    data = services.datasets.item_bytes(manifest, index)
    if manifest.kind is ItemKind.TEXT:
        text = data.decode("utf-8", "replace")[:TEXT_CHARS]
    item = manifest.items[index]
    return ItemView(
        dataset=services.datasets.get(name),
        version=version,
        kind=manifest.kind.value,
        index=index,
        items_count=len(manifest.items),
        item=item,
        said=label_draft.label_of(item, manifest.classes),
        text=text,
        window_shape=manifest.window_shape,
    )


def known_models(services: Services) -> tuple[str, ...]:
    """Return the models whose input is known: those with a checkpoint or a release."""
    releases = services.releases
    found = {checkpoint.model for checkpoint in releases.checkpoints.list()}
    found |= {release.model for release in releases.releases()}
    return tuple(sorted(found))


def class_rows(manifest: Manifest) -> tuple[ClassRow, ...]:
    """Return how a version's classes are spread over its parts, in the order of the classes."""
    counts: Counter[tuple[int, Part]] = Counter()
    for item in manifest.items:
        if item.boxes is not None:
            counts.update((box.class_index, item.part) for box in item.boxes)
        elif item.label is not None:
            counts[(item.label, item.part)] += 1
    totals = [sum(counts[(i, part)] for part in Part) for i in range(len(manifest.classes))]
    largest = max(totals, default=0) or 1
    return tuple(
        ClassRow(name, totals[i], _bar({part: counts[(i, part)] for part in Part}, largest))
        for i, name in enumerate(manifest.classes)
    )


def finding_rows(report: CleaningReport | None, manifest: Manifest) -> tuple[FindingRow, ...]:
    """Return a report's findings, their examples with positions where they are items."""
    if report is None:
        return ()
    names = {name for finding in report.findings for name in finding.examples[:EXAMPLES_SHOWN]}
    places = {item.name: i for i, item in enumerate(manifest.items) if item.name in names}
    return tuple(
        FindingRow(
            sentence=finding.sentence,
            tone=_tone(finding.code),
            count=finding.count,
            examples=tuple((n, places.get(n)) for n in finding.examples[:EXAMPLES_SHOWN]),
        )
        for finding in report.findings
    )


def _tone(code: FindingCode) -> str:
    if code in BAD_FINDINGS:
        return "bad"
    return "" if code in QUIET_FINDINGS else "warn"


def _bar(counts: Mapping[Part, int], largest: int) -> tuple[BarPart, ...]:
    start = 0.0
    found: list[BarPart] = []
    for part, count in counts.items():
        width = BAR_UNITS * count / largest
        found.append(BarPart(part.value, count, round(start, 2), round(width, 2)))
        start += width
    return tuple(found)


def _tile(services: Services, manifest: Manifest, index: int, item: Item) -> Tile:
    text = ""
    if manifest.kind is ItemKind.TEXT:
        data = services.datasets.item_bytes(manifest, index)
        text = data.decode("utf-8", "replace")[:EXCERPT_CHARS]
    return Tile(index, item, label_draft.label_of(item, manifest.classes), text)


def _devices(manifest: Manifest) -> tuple[str, ...]:
    return tuple(sorted({item.device for item in manifest.items} - {""})[:DEVICES_SHOWN])


def _share(version: DatasetVersion | None) -> float | None:
    if version is None or not version.items_count:
        return None
    return version.labelled_count / version.items_count


def _named(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:CLASSES_NAMED])
    more = len(classes) - CLASSES_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
