"""Counts with their nouns."""

import pytest

from shared.plural import counted


@pytest.mark.parametrize(
    ("count", "noun", "plural", "said"),
    [
        (1, "device", "", "1 device"),
        (0, "device", "", "0 devices"),
        (1200, "device", "", "1,200 devices"),
        (2, "class", "classes", "2 classes"),
    ],
)
def test_a_noun_is_in_the_number_of_its_count(
    count: int, noun: str, plural: str, said: str
) -> None:
    assert counted(count, noun, plural) == said
