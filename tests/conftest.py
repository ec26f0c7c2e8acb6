"""Fixtures that tests of several parts share; each is defined in tests/support.

Hypothesis draws the same cases in every run (a landing must not hang on luck); to explore, run
with HYPOTHESIS_PROFILE=explore.

On a build machine (CI is set) a test of real processes that fails is run once more and listed as
RERUN: a landing must not hang on a crowded machine's worst second, and what stands there wants
mending all the same. Pure tests have no such excuse.

With several workers (`--dist loadgroup`) a file's tests stay together on one of them, so that what
a module sets up is set up once and not by each worker; and what takes longest begins first, so that
no worker ends alone with it.
"""

import gc
import logging
import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

from shared.logs import OWN_PACKAGES
from shared.quick_imports import quick_imports
from shared.quiet_libraries import keep_libraries_quiet

keep_libraries_quiet()

# Hundreds of our programs are started here, and each would translate all of our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.databases",
    "tests.support.api_client",
    "tests.support.digits_hub",
    "tests.support.s3_server",
]


REAL_PROCESSES = ("/tests/integration/", "/tests/e2e/", "/tests/contract/")
# Small and many at the end: with them both workers end together.
ORDER = ("/tests/e2e/", "/tests/integration/", "/tests/contract/", "/tests/architecture/")


def pytest_configure(config: pytest.Config) -> None:
    """Hand tests out as they are ordered here; xdist would begin with the file of most tests."""
    config.option.loadscopereorder = False


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Take what lives as long as the run out of the garbage collector's rounds.

    With torch and ten thousand tests one round takes a second, and Flower asks for one with every
    record that it reads.
    """
    with quick_imports():
        collected = yield
        gc.collect()
    return collected


def pytest_runtest_setup() -> None:
    """Begin with nobody's logging: a command run in this process has set it up its own way."""
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if type(h) is not logging.StreamHandler]
    for package in OWN_PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.hookimpl(tryfirst=True)  # Before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep files together and begin with what takes longest; allow real processes a second run."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=_place)
    if not os.environ.get("CI"):
        return
    for item in items:
        if any(folder in item.path.as_posix() for folder in REAL_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


def _place(item: pytest.Item) -> tuple[int, ...]:
    """Return when its turn is; tests of one file stay as they are written."""
    path = item.path.as_posix()
    return tuple(folder not in path for folder in ORDER)
