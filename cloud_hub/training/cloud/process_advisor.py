"""Asks the search's advisor, a short process of its own: optuna stays out of the hub's."""

import tempfile
from pathlib import Path

import msgspec

from cloud_hub.process_limits import run_to_end
from cloud_hub.training.cloud.advice import ADVISOR, ANSWER, QUESTION, Advice, Question
from shared.errors import TransientError

SECONDS_MAX = 60.0


def ask(question: Question) -> Advice:
    """Return what should be done next; takes about half a second.

    Raises TransientError `search.no_advice`.
    """
    with tempfile.TemporaryDirectory(prefix="isthmus-search-") as name:
        folder = Path(name)
        (folder / QUESTION).write_bytes(msgspec.json.encode(question))
        crash = run_to_end(ADVISOR, folder, seconds_max=SECONDS_MAX)
        if crash:
            raise TransientError(
                "search.no_advice",
                f"The search's advisor failed: {crash}.",
                remedy='Look whether optuna is installed: pip install "isthmus[hub,train]".',
            )
        return msgspec.json.decode((folder / ANSWER).read_bytes(), type=Advice)
