"""Compares two models' answers: `python -m cloud_hub.explain.file_compare FOLDER`.

A process of its own, because answers are numpy's; it reads the files that paired.py names, which
training processes have written, and writes COMPARED there. It limits itself first.
"""

import sys
from pathlib import Path

import msgspec

from cloud_hub.explain.answers import decode_answers
from cloud_hub.explain.compare import compare
from cloud_hub.explain.paired import ANSWERS_OF, COMPARED, REPORTS, ComparedFile
from cloud_hub.explain.report import decode_report
from cloud_hub.process_limits import limit_this_process
from shared.errors import IsthmusError

MEMORY_BYTES_MAX = 4 << 30  # Address space; two files of answers at their limits fit
SECONDS_MAX = 60


def main() -> int:
    """Compare what lies in the folder that is named."""
    folder = Path(sys.argv[1])
    limit_this_process(MEMORY_BYTES_MAX, SECONDS_MAX)
    (folder / COMPARED).write_bytes(msgspec.json.encode(_compared(folder)))
    return 0


def _compared(folder: Path) -> ComparedFile:
    try:
        before, now = (decode_report((folder / name).read_bytes()) for name in REPORTS)
        was, now_is = (decode_answers((folder / name).read_bytes()) for name in ANSWERS_OF)
        return ComparedFile(comparison=compare(before, now, was, now_is))
    except IsthmusError as error:
        return ComparedFile(code=error.code, error=error.message, remedy=error.remedy)


if __name__ == "__main__":
    sys.exit(main())
