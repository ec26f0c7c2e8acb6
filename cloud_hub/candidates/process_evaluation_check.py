"""Starts the process that reads an uploaded evaluation set, and brings back what it found."""

import msgspec

from cloud_hub.candidates.evaluation_limits import CHECK_S_MAX, SAVE_REMEDY
from cloud_hub.process_limits import START_S, run_to_end, temporary_folder
from shared.errors import ContractError

PROCESS = "cloud_hub.candidates.file_evaluation_check"
EVALUATION = "evaluation.npz"
FACTS = "facts.json"


class SetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a set. `error` is why it is none, if it is not."""

    error: str = ""
    items_count: int = 0
    item_shape: tuple[int, ...] = ()
    slices: dict[str, int] = {}


def check_set(data: bytes) -> SetFacts:
    """Return what an .npz holds. Raises ContractError `evaluation.invalid`."""
    with temporary_folder("isthmus-evaluation-") as folder:
        (folder / EVALUATION).write_bytes(data)
        crash = run_to_end(PROCESS, folder, seconds_max=CHECK_S_MAX + START_S)
        if crash:
            facts = SetFacts(error=f"Reading the evaluation set failed: {crash}.")
        else:
            facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=SetFacts)
    if facts.error:
        raise ContractError(
            "evaluation.invalid",
            facts.error,
            remedy=SAVE_REMEDY,
        )
    return facts
