"""Starts the process that makes a version, and brings back what came of it; see making.py."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import msgspec

from cloud_hub.datasets.making import MADE, ORDER, Made, Order, Problem
from cloud_hub.process_limits import START_S, run_to_end
from shared.durable_file import write_failed
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)

PROCESS = "cloud_hub.datasets.opencv_import"
FAMILIES: Mapping[str, type[IsthmusError]] = MappingProxyType(
    {
        family.__name__: family
        for family in (
            ContractError,
            IntegrityError,
            RefusedError,
            TransientError,
            UnavailableError,
        )
    }
)


def make_version(order: Order, folder: Path, *, seconds_max: float) -> Made:
    """Return what came of an order; blocks for as long as it takes.

    Args:
        order: what is to be made.
        folder: an empty one, which the caller removes.
        seconds_max: of the clock, after which the process is ended.

    Raises what the process says was wrong, RefusedError `dataset.import_failed` if it died, or
    TransientError `disk.write_failed`.
    """
    try:
        (folder / ORDER).write_bytes(msgspec.json.encode(order))
    except OSError as error:
        raise write_failed(folder / ORDER, error) from error
    crash = run_to_end(PROCESS, folder, seconds_max=seconds_max + START_S)
    if crash:
        raise RefusedError(
            "dataset.import_failed",
            f"Reading the source failed: {crash}.",
            remedy="Import smaller pieces, or raise datasets.import_s_max and "
            "datasets.import_memory_bytes_max in the hub's settings.",
        )
    made = msgspec.json.decode((folder / MADE).read_bytes(), type=Made)
    if made.problem is not None:
        raise_problem(made.problem)
    return made


def raise_problem(problem: Problem) -> NoReturn:
    """Raise what a process has told as the error that it was there."""
    family = FAMILIES.get(problem.family, RefusedError)
    raise family(problem.code, problem.message, remedy=problem.remedy)
