"""The Flower App Bundle of every Job: an empty shell.

Flower starts a run from a bundle of code. Ours has none: it names entry points that are installed
where they run, and declares the two settings by which a run in Flower's database says which Job it
is. A hub sends devices numbers and names, never code.
"""

import io
import zipfile

JOB, ATTEMPT = "job", "attempt"  # Keys of a run's settings
_PROJECT = f"""\
[build-system]
requires = []
build-backend = "none"

[project]
name = "isthmus"
version = "1.0.0"
description = "Names what is installed; holds no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "isthmus"

[tool.flwr.app.components]
serverapp = "cloud_hub.training.flwr_server:app"
clientapp = "edge_agent.training.flwr_node:app"

[tool.flwr.app.config]
{JOB} = ""
{ATTEMPT} = 0
"""
_LONG_AGO = (2020, 1, 1, 0, 0, 0)  # The same bytes at every call: Flower keys bundles by digest


def empty_fab() -> bytes:
    """Return the bundle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        bundle.writestr(zipfile.ZipInfo("pyproject.toml", _LONG_AGO), _PROJECT)
    return file.getvalue()
