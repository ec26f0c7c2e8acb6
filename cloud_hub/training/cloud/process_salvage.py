"""Has what a broken-off run had learned made into a result, in a process of its own.

The hub's process imports no torch; what it asks for is trainer/torch_salvage.py.
"""

from pathlib import Path

from cloud_hub.process_limits import run_to_end

SALVAGE = "cloud_hub.training.trainer.torch_salvage"
SECONDS_MAX = 300.0


def salvage(folder: Path) -> str:
    """Make RESULT and BEST of a run's newest state, where there is one; takes seconds.

    Returns why it could not be done; "" where it was, or where there is no state to make it of.
    """
    return run_to_end(SALVAGE, folder, seconds_max=SECONDS_MAX)
