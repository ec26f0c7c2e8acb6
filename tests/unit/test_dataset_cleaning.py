"""What the cleaning report finds, and what it does not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.datasets.cleaning import Cleaner
from cloud_hub.datasets.cleaning_boxes import box_fault, clean_boxes
from cloud_hub.datasets.cleaning_facts import Facts, facts_of_text, facts_of_window
from cloud_hub.datasets.cleaning_report import (
    EXAMPLES_MAX,
    CleaningReport,
    Finding,
    FindingCode,
)
from cloud_hub.datasets.cleaning_rules import duplicates, mixed, near_duplicates
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.datasets.raw_item import Broken, RawBox, RawItem
from shared.release.digest import digest_of

WHOLE = RawBox("car", 0.0, 0.0, 1.0, 1.0)


def picture(cleaner: Cleaner, name: str, data: str, *, look: int, **fields: object) -> None:
    """Show the cleaner one picture whose bytes and look are told."""
    width = fields.pop("width", 32.0)
    facts = Facts((100.0, 20.0, float(width), 32.0), look=look)  # type: ignore[arg-type]
    item = RawItem(b"", name, **fields)  # type: ignore[arg-type]
    cleaner.see(item, digest_of(data.encode()), facts)


def scattered(index: int) -> int:
    """Return a look far from all others."""
    return int.from_bytes(bytes.fromhex(digest_of(str(index).encode()))[:16], "big")


def the(report: CleaningReport, code: FindingCode) -> Finding:
    """Return the one finding of a kind."""
    (found,) = [finding for finding in report.findings if finding.code is code]
    return found


def codes(report: CleaningReport) -> set[FindingCode]:
    return {finding.code for finding in report.findings}


def test_a_clean_dataset_has_no_findings() -> None:
    cleaner = Cleaner(ItemKind.IMAGE, classes=("a", "b"))
    for index in range(60):
        part = (Part.TRAIN, Part.TEST)[index % 2]
        fields = {"label": "ab"[index % 2], "part": part, "group": str(index)}
        picture(cleaner, str(index), str(index), look=scattered(index), **fields)
    report = cleaner.report()
    assert report.findings == ()
    assert (report.items_count, report.labelled_count, report.imbalance_ratio) == (60, 60, 1.0)
    assert report.counts_by_class == {"a": 30, "b": 30}


def test_the_same_bytes_are_duplicates_conflicts_and_leaks() -> None:
    cleaner = Cleaner(ItemKind.IMAGE)
    picture(cleaner, "1", "x", look=scattered(1), label="cat", part=Part.TRAIN)
    picture(cleaner, "2", "x", look=scattered(1), label="dog", part=Part.TEST)
    picture(cleaner, "3", "x", look=scattered(1))
    picture(cleaner, "4", "y", look=scattered(2), label="dog", part=Part.TEST)
    report = cleaner.report()
    assert the(report, FindingCode.DUPLICATE).examples == ("2", "3")
    assert the(report, FindingCode.LABEL_CONFLICT).examples == ("1", "2")
    assert the(report, FindingCode.LEAK_DIGEST).examples == ("1", "2")
    assert the(report, FindingCode.UNLABELLED).examples == ("3",)
    assert FindingCode.NEAR_DUPLICATE not in codes(report)  # They are more than near
    assert report.findings[0].code is FindingCode.LEAK_DIGEST


def test_a_group_in_two_parts_leaks_until_it_is_split() -> None:
    cleaner = Cleaner(ItemKind.IMAGE)
    for index, part in enumerate((Part.TRAIN, Part.VALIDATION, Part.TRAIN)):
        group = "clip" if index < 2 else "other"
        picture(cleaner, str(index), str(index), look=scattered(index), group=group, part=part)
    assert the(cleaner.report(), FindingCode.LEAK_GROUP).examples == ("0", "1")
    after = cleaner.report([Part.TEST, Part.TEST, Part.TRAIN])
    assert FindingCode.LEAK_GROUP not in codes(after)


def test_pictures_that_look_alike_are_found_whichever_bits_differ() -> None:
    look = scattered(7)
    cleaner = Cleaner(ItemKind.IMAGE)
    picture(cleaner, "first", "0", look=look)
    picture(cleaner, "same look", "1", look=look)
    picture(cleaner, "3 bits", "2", look=look ^ (1 | 1 << 40 | 1 << 127))
    picture(cleaner, "4 bits", "3", look=look ^ (1 << 3 | 1 << 40 | 1 << 80 | 1 << 110))
    assert the(cleaner.report(), FindingCode.NEAR_DUPLICATE).examples == ("same look", "3 bits")


def test_broken_entries_are_told_apart_by_reason() -> None:
    cleaner = Cleaner(ItemKind.TEXT)
    for index in range(30):
        cleaner.see_broken(Broken(f"{index}.txt", "is empty" if index % 3 else "is not UTF-8"))
    found = [f for f in cleaner.report().findings if f.code is FindingCode.BROKEN]
    assert {(f.detail, f.count) for f in found} == {("is empty", 20), ("is not UTF-8", 10)}
    assert all(len(f.examples) <= EXAMPLES_MAX for f in found)
    for index in range(200):
        cleaner.see_broken(Broken("x", f"reason {index}"))
    assert len(cleaner.report().findings) <= 41


def test_classes_that_are_few_rare_or_missing() -> None:
    cleaner = Cleaner(ItemKind.IMAGE, classes=("a", "b", "c"))
    for index in range(60):
        label = "b" if index % 12 == 0 else "a"
        picture(cleaner, str(index), str(index), look=scattered(index), label=label)
    report = cleaner.report()
    assert report.imbalance_ratio == pytest.approx(11.0)
    assert the(report, FindingCode.IMBALANCE).detail == "11.0"
    assert the(report, FindingCode.RARE_CLASS).examples == ("b",)
    assert the(report, FindingCode.EMPTY_CLASS).examples == ("c",)


def test_what_lies_far_out_is_found_also_where_most_are_equal() -> None:
    cleaner = Cleaner(ItemKind.IMAGE)
    for index in range(50):
        width = 3_000.0 if index == 20 else 32.0
        picture(cleaner, str(index), str(index), look=scattered(index), width=width)
    found = the(cleaner.report(), FindingCode.OUTLIER)
    assert (found.detail, found.examples) == ("width", ("20",))


def test_channels_that_say_nothing() -> None:
    random = np.random.default_rng(0)
    cleaner = Cleaner(ItemKind.WINDOW, channels=("hum", "dead", "often flat"))
    for index in range(30):
        samples = random.normal(size=(8, 3)).astype("<f4")
        samples[:, 1] = 5.0
        samples[:, 2] = index if index % 10 else samples[:, 2]
        facts = facts_of_window(samples.tobytes(), (8, 3))
        assert isinstance(facts, Facts)
        cleaner.see(RawItem(samples.tobytes(), str(index)), digest_of(samples.tobytes()), facts)
    report = cleaner.report()
    assert the(report, FindingCode.DEAD_CHANNEL).examples == ("dead",)
    assert the(report, FindingCode.FLAT_CHANNEL).examples == ("often flat",)
    assert report.facts[0].fact == "channel 0 mean"


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        (WHOLE, None),
        (RawBox("car", -0.0005, 0.0, 0.5, 0.5), None),  # A tool's rounding
        (RawBox("car", -0.1, 0.0, 0.5, 0.5), FindingCode.BOX_OUTSIDE),
        (RawBox("car", 0.5, 0.5, 0.5, 0.6), FindingCode.BOX_DEGENERATE),
        (RawBox("car", 0.6, 0.5, 0.5, 0.6), FindingCode.BOX_DEGENERATE),
        (RawBox("car", 1.1, 0.5, 1.5, 0.6), FindingCode.BOX_DEGENERATE),
        (RawBox("car", float("nan"), 0.5, 0.5, 0.6), FindingCode.BOX_DEGENERATE),
        (RawBox("car", 0.5, 0.5, 0.502, 0.9), FindingCode.BOX_TINY),
    ],
)
def test_boxes(box: RawBox, fault: FindingCode | None) -> None:
    assert box_fault(box) is fault
    for clean in clean_boxes([box]):
        assert 0 <= clean.left < clean.right <= 1
        assert 0 <= clean.top < clean.bottom <= 1
    cleaner = Cleaner(ItemKind.IMAGE)
    picture(cleaner, "1", "1", look=1, boxes=(box, WHOLE))
    report = cleaner.report()
    assert (fault in codes(report)) == (fault is not None)
    assert report.counts_by_class == {"car": 2}


def test_facts_of_what_is_no_item() -> None:
    holes = np.array([[1.0], [np.nan]], "<f4")
    assert facts_of_window(holes.tobytes(), (2, 1)) == "has values that are missing or infinite"
    assert isinstance(facts_of_window(b"\0" * 12, (2, 1)), str)
    assert facts_of_text(b"\xff") == "is not UTF-8"
    assert facts_of_text(b"  \n") == "is empty"
    assert facts_of_text(b"ab c1") == Facts((5.0, 2.0, 0.6))


Rows = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2)), max_size=30)


@settings(max_examples=30, deadline=None)
@given(Rows)
def test_duplicates_and_conflicts_are_those_one_would_count(rows: list[tuple[int, int]]) -> None:
    digests = np.array([(key, 1) for key, _ in rows], np.uint64).reshape(-1, 2)
    marks = np.array([mark for _, mark in rows], np.int64)
    keys = [key for key, _ in rows]
    assert duplicates(digests).tolist() == [i for i, k in enumerate(keys) if k in keys[:i]]
    expected = [
        i
        for i, (key, mark) in enumerate(rows)
        if mark >= 0 and len({m for k, m in rows if k == key and m >= 0}) > 1
    ]
    assert mixed(digests, marks).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**128 - 1), max_size=8), st.integers(0, 127), st.integers(0, 127))
def test_a_look_two_bits_away_is_always_found(looks: list[int], one: int, two: int) -> None:
    looks = [*looks, scattered(0), scattered(0) ^ 1 << one ^ 1 << two]
    table = np.array([(look >> 64, look & (1 << 64) - 1) for look in looks], np.uint64)
    tones = np.zeros((len(looks), 2), np.float32)
    found = near_duplicates(table, tones, np.zeros(len(looks), np.bool_))
    assert len(looks) - 1 in found.tolist()
