"""Answers of two models beside each other."""

import hashlib

import numpy as np
import pytest

from cloud_hub.explain.answers import Answers, decode_answers, digest_rows, encode_answers
from cloud_hub.explain.compare import compare
from cloud_hub.explain.report import Report
from shared.errors import ContractError, RefusedError

DIGESTS = [hashlib.sha256(bytes([n])).hexdigest() for n in range(6)]


def answers(said: list[int], *, labels: tuple[int, ...] = (0, 0, 0, 1, 1, 1)) -> Answers:
    return Answers(
        digests=digest_rows(DIGESTS),
        labels=np.array(labels, np.float64),
        answers=np.array(said, np.float64),
        confidences=np.full(6, 0.9, np.float32),
        is_right=np.array(said) == np.array(labels),
    )


def report(*, part: str = "test", manifest: str = "a" * 64, task: str = "classification") -> Report:
    return Report(
        task=task,
        part=part,
        dataset="shelf",
        manifest=manifest,
        weights_digest="b" * 64,
        items_count=6,
        classes=("x", "y"),
        accuracy=None,
        metrics={"accuracy": 0.5, part: 1.0},
        confusion=((1, 2), (1, 2)),
    )


def test_gained_and_lost_are_counted_in_all_and_by_class() -> None:
    found = compare(report(), report(), answers([0, 0, 1, 1, 0, 0]), answers([0, 1, 0, 1, 1, 1]))
    whole = found.whole
    assert (whole.right_before, whole.right_now, whole.gained, whole.lost) == (3, 5, 3, 1)
    assert [(row.name, row.gained, row.lost) for row in found.by_class] == [
        ("x", 1, 1),
        ("y", 2, 0),
    ]
    assert found.disagreements[0] == DIGESTS[1]  # What was lost comes first
    assert len(found.disagreements) == 4


@pytest.mark.parametrize(
    "other", [report(part="validation"), report(manifest="c" * 64), report(task="anomaly")]
)
def test_reports_on_different_items_are_not_compared(other: Report) -> None:
    same = answers([0] * 6)
    with pytest.raises(RefusedError) as raised:
        compare(report(), other, same, same)
    assert raised.value.code == "explain.not_comparable"


def test_answers_to_other_items_are_not_compared() -> None:
    one = answers([0] * 6)
    other = Answers(one.digests[::-1], one.labels, one.answers, one.confidences, one.is_right)
    with pytest.raises(RefusedError):
        compare(report(), report(), one, other)


def test_answers_survive_their_file() -> None:
    before = answers([0, 1, 0, 1, 0, 1])
    after = decode_answers(encode_answers(before))
    for name in ("digests", "labels", "answers", "confidences", "is_right"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("damage", ["no zip", "cut", "shape"])
def test_a_file_that_is_no_answers_is_refused(damage: str) -> None:
    data = encode_answers(answers([0] * 6))
    if damage == "no zip":
        data = b"hello"
    elif damage == "cut":
        data = data[: len(data) // 2]
    else:
        one = answers([0] * 6)
        data = encode_answers(
            Answers(one.digests[:3], one.labels, one.answers, one.confidences, one.is_right)
        )
    with pytest.raises(ContractError) as raised:
        decode_answers(data)
    assert raised.value.code == "explain.answers"
