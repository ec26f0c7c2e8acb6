"""Fixtures that tests of several parts share; each is defined in tests/support."""

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.databases",
    "tests.support.api_client",
]
