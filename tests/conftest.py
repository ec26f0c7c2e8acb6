"""Fixtures that tests of several parts share; each is defined in tests/support.

Hypothesis draws the same cases in every run (a landing must not hang on luck); to explore, run
with HYPOTHESIS_PROFILE=explore.

On a build machine (CI is set) a test of real processes that fails is run once more and listed as
RERUN: a landing must not hang on a crowded machine's worst second, and what stands there wants
mending all the same. Pure tests have no such excuse.
"""

import logging
import os

import pytest
from hypothesis import settings

from shared.logs import OWN_PACKAGES
from shared.quiet_libraries import keep_libraries_quiet

keep_libraries_quiet()

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


def pytest_runtest_setup() -> None:
    """Begin with nobody's logging: a command run in this process has set it up its own way."""
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if type(h) is not logging.StreamHandler]
    for package in OWN_PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow tests of real processes a second run on a build machine."""
    if not os.environ.get("CI"):
        return
    for item in items:
        if any(folder in item.path.as_posix() for folder in REAL_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))
