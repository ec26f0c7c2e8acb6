"""The process that reads an uploaded evaluation set: `python -m … FOLDER`.

FOLDER holds evaluation.npz; this writes facts.json: SetFacts. The arrays may be large and come
from outside: they are opened here, with a limit on memory and processor time, never in the hub.
"""

import sys
from pathlib import Path

import msgspec

from cloud_hub.candidates import evaluation_limits as limits
from cloud_hub.candidates.evaluation_data import decode_evaluation
from cloud_hub.candidates.process_evaluation_check import EVALUATION, FACTS, SetFacts
from cloud_hub.process_limits import limit_this_process
from shared.errors import ContractError


def main() -> None:
    """Check the set in the folder named on the command line."""
    limit_this_process(limits.CHECK_MEMORY_BYTES_MAX, limits.CHECK_S_MAX)
    folder = Path(sys.argv[1])
    try:
        data = decode_evaluation((folder / EVALUATION).read_bytes())
        facts = SetFacts(
            items_count=int(data.items.shape[0]),
            item_shape=tuple(int(size) for size in data.items.shape[1:]),
            slices=data.slice_counts(),
        )
    except ContractError as error:
        facts = SetFacts(error=error.message)
    (folder / FACTS).write_bytes(msgspec.json.encode(facts))


if __name__ == "__main__":
    main()
