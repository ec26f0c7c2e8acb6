"""quick_imports: no rounds of the garbage collector within it, and all is as before after it."""

import gc
from collections.abc import Iterator

import pytest

from shared.quick_imports import quick_imports


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_nothing_is_collected_within_it_and_what_came_is_left_alone_later() -> None:
    before_count = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before_count + len(kept)


def test_a_block_within_a_block_ends_nothing_early() -> None:
    with quick_imports():
        with quick_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_module_that_is_missing_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), quick_imports():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
