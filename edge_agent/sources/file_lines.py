"""LinesSource: a text file, one text a line.

1. Lines are read one after another, never the whole file. A line that is no text (texts.py) or is
   longer than `text_bytes_max` is counted and left out; its sequence number is not given to
   another. Empty lines are not even numbered.
2. With `loop` the file starts again at its end; sequence numbers go on.
"""

import threading
from pathlib import Path
from typing import BinaryIO

from edge_agent.sources.item import TextItem
from edge_agent.sources.pacer import Pacer
from edge_agent.sources.texts import to_text
from shared.clock import Clock, now_ms
from shared.errors import ContractError
from shared.pipeline.sources import Delivery, LinesSettings

REST_BYTES = 65_536  # A line that is too long is skipped in pieces of so many


class LinesSource:
    """Implements Source; see the rules above."""

    lost_messages_count = 0  # Nothing runs over

    def __init__(self, settings: LinesSettings, clock: Clock) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._clock = clock
        self._pacer = Pacer(clock)
        self._file: BinaryIO | None = None
        self._sequence = 0
        self._texts_in_pass = 0
        self.bad_messages_count = 0

    @property
    def is_every_item(self) -> bool:
        """Whether every item counts."""
        return self._settings.delivery is Delivery.EVERY

    @property
    def description(self) -> str:
        """Return what it is."""
        return f"the lines of {self._settings.path}"

    def open(self) -> None:
        """Open the file. Raises ContractError `source.missing`."""
        self.close()
        path = Path(self._settings.path)
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise ContractError(
                "source.missing", f"Cannot read {path}: {error.strerror}.", remedy="Check the path."
            ) from error
        self._texts_in_pass = 0

    def read(self, stop: threading.Event) -> TextItem | None:
        """Return the next text when it is due. Raises ContractError `source.empty`."""
        text = self._next_text(stop)
        if text is None:
            return None
        rate_hz = self._settings.rate_hz
        if not self._pacer.wait(1.0 / rate_hz if rate_hz else 0.0, stop):
            return None
        at_s = self._clock.monotonic_s()
        return TextItem(text, self._sequence - 1, now_ms(self._clock), at_s)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _next_text(self, stop: threading.Event) -> str | None:
        """Return the next line that is a text; None at the end, or if `stop` is set."""
        while not stop.is_set():
            line = self._next_line()
            if not line:
                if not self._starts_again():
                    return None
                continue
            if not line.strip():
                continue
            self._sequence += 1
            text = to_text(line.rstrip(b"\r\n"), bytes_max=self._settings.text_bytes_max)
            if text is not None:
                self._texts_in_pass += 1
                return text
            self.bad_messages_count += 1
        return None

    def _next_line(self) -> bytes:
        """Return the next line, cut a little above the limit; empty at the end of the file."""
        assert self._file is not None, "open comes first"
        line = self._file.readline(self._settings.text_bytes_max + len(b"\r\n") + 1)
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = self._file.readline(REST_BYTES)
        return line

    def _starts_again(self) -> bool:
        """Whether there is another pass; a pass without a text would go on for ever."""
        if not self._texts_in_pass:
            raise ContractError(
                "source.empty",
                f"{self._settings.path} has no line of text in UTF-8.",
                remedy="Write one text a line; see text_bytes_max.",
            )
        if self._settings.loop:
            self.open()
        return self._settings.loop
