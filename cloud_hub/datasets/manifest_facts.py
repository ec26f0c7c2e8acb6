"""Counts over a manifest: what a version's row in the database says. Pure."""

from collections import Counter, defaultdict

from cloud_hub.datasets.dataset import DatasetName, DatasetVersion
from cloud_hub.datasets.making import ManifestFacts, PackFacts
from cloud_hub.datasets.manifest import Manifest, Part
from shared.ids import LineageId


def facts_of(manifest: Manifest, digest: str) -> ManifestFacts:
    """Return what is written down of a manifest."""
    classes: Counter[int] = Counter()
    packs: dict[str, int] = defaultdict(int)
    parts = Counter(item.part for item in manifest.items)
    for item in manifest.items:
        packs[item.pack] = max(packs[item.pack], item.start + item.bytes_count)
        if item.boxes is not None:
            classes.update(box.class_index for box in item.boxes)
        elif item.label is not None:
            classes[item.label] += 1
    return ManifestFacts(
        digest=digest,
        kind=manifest.kind,
        classes=manifest.classes,
        items_count=len(manifest.items),
        labelled_count=sum(is_labelled(item.label, item.boxes) for item in manifest.items),
        counts_by_part={part: parts[part] for part in Part},
        counts_by_class={name: classes[index] for index, name in enumerate(manifest.classes)},
        bytes_count=sum(item.bytes_count for item in manifest.items),
        packs=tuple(PackFacts(name, count) for name, count in sorted(packs.items())),
    )


def is_labelled(label: int | None, boxes: object) -> bool:
    """Return whether somebody has said what an item is, or what is to be seen on it."""
    return label is not None or boxes is not None


def version_of(
    facts: ManifestFacts,
    *,
    dataset: DatasetName,
    version: int,
    parent: int | None,
    lineage_id: LineageId,
    note: str,
    created_ms: int,
    created_by: str,
) -> DatasetVersion:
    """Return the version that a manifest's facts make."""
    return DatasetVersion(
        dataset=dataset,
        version=version,
        digest=facts.digest,
        parent=parent,
        items_count=facts.items_count,
        labelled_count=facts.labelled_count,
        counts_by_part=facts.counts_by_part,
        counts_by_class=facts.counts_by_class,
        bytes_count=facts.bytes_count,
        lineage_id=lineage_id,
        note=note,
        created_ms=created_ms,
        created_by=created_by,
    )
