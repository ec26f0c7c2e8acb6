"""Fixtures that tests of several parts share; each is defined in tests/support.

Hypothesis draws the same cases in every run (a landing must not hang on luck); to explore, run
with HYPOTHESIS_PROFILE=explore.
"""

import os

from hypothesis import settings

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
