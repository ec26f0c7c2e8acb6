"""Logging for both sides: one JSON object a line to stdout, event name plus fields.

`log.warning("inbox.rejected", extra={"device": …})` becomes
`{"at": "…", "level": "warning", "event": "inbox.rejected", "device": …}`.
Never payloads, keys or pixels.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Annotated, TextIO

from msgspec import Meta

OWN_PACKAGES = ("shared", "edge_agent", "cloud_hub")
# A pattern, not a Literal: the error for a wrong one then says which there are.
LogLevel = Annotated[str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$")]
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as one line of JSON."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "part": record.name,
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """The same for a person at a terminal: time, level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as one line of text."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{k}={v}" for k, v in vars(record).items() if k not in _STANDARD)
        text = f"{at} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def set_up_logging(*, level: LogLevel = "INFO", stream: TextIO = sys.stdout) -> None:
    """Send every log line to `stream`: plain where it is a terminal, JSON elsewhere.

    Args: `level` is ours; of libraries only warnings and worse are kept: what they tell on INFO an
    operator would not tell a colleague.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in OWN_PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
