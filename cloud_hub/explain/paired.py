"""Paired: two models on the same items, counted; and the names of files two processes exchange.

Values only, without numpy: the hub's own process reads these.
"""

from collections.abc import Mapping

import msgspec

REPORTS = ("report-a.json", "report-b.json")  # As report.py has them
ANSWERS_OF = ("answers-a.npz", "answers-b.npz")  # As answers.py has them
COMPARED = "compared.json"  # ComparedFile; written last
DISAGREEMENTS_MAX = 200


class Paired(msgspec.Struct, frozen=True):
    """The same items, decided by both."""

    name: str  # Of the true class; "" for all items
    items_count: int
    right_before: int
    right_now: int
    gained: int
    lost: int


class Comparison(msgspec.Struct, frozen=True):
    """Two models on the same items."""

    whole: Paired
    by_class: tuple[Paired, ...]  # Empty where labels are no classes
    metrics: Mapping[str, tuple[float, float]]  # Those both have: before, now
    disagreements: tuple[str, ...]  # Digests of items only one has right: lost ones first


class ComparedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a comparison. `code` and `error` say why nothing did."""

    comparison: Comparison | None = None
    code: str = ""
    error: str = ""
    remedy: str = ""
