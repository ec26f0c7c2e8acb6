"""ModbusSource: registers of a device that speaks Modbus/TCP, polled, as windows.

1. Every poll is one row: all values, read in as few requests as registers.py allows. A poll that is
   late is not made up for (pacer.py).
2. A connection that cannot be made or is lost, and an answer that does not come within `timeout_s`,
   are TransientErrors (`source.lost`): the capture loop connects again, so that a late answer is
   never taken for that to another question. The window is cut.
3. A device that answers with an exception has no value there: the row has none for those channels
   and the poll is counted as bad; windowing.py says what becomes of it. BAD_POLLS_MAX of them one
   after another are a lost source.
4. "Illegal function", "address" or "value" before anything was ever read means that the settings
   are wrong: a ContractError (`source.registers`).
"""

import math
import threading
from typing import TYPE_CHECKING

from edge_agent.sources.item import Window
from edge_agent.sources.pacer import Pacer
from edge_agent.sources.registers import Block, decode, plan_blocks
from edge_agent.sources.windowing import RollingWindow
from shared.clock import Clock, now_ms
from shared.errors import ContractError, TransientError
from shared.pipeline.sources import ModbusSettings, RegisterTable

if TYPE_CHECKING:
    from pymodbus.client import ModbusTcpClient

BAD_POLLS_MAX = 30
ILLEGAL_CODES = frozenset({1, 2, 3})  # Function, data address, data value


class ModbusSource:
    """Implements Source; see the rules above."""

    is_every_item = True
    lost_messages_count = 0  # Nothing runs over: the next poll waits

    def __init__(self, settings: ModbusSettings, clock: Clock) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._clock = clock
        self._pacer = Pacer(clock)
        self._blocks = plan_blocks(settings.channels)
        self._window = RollingWindow(settings.window, channels_count=len(settings.channels))
        self._client: ModbusTcpClient | None = None
        self._last_row_s = 0.0
        self._has_read = False
        self._bad_polls = 0  # One after another
        self._sequence = 0
        self.bad_messages_count = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        settings = self._settings
        return f"the Modbus device {settings.unit} at {settings.host}:{settings.port}"

    def open(self) -> None:
        """Connect. Raises TransientError `source.lost`."""
        # Here and not above: few devices have such a sensor, and it costs 10 MB to import.
        from pymodbus.client import ModbusTcpClient

        self.close()
        self._window.cut()
        self._bad_polls = 0
        self._last_row_s = self._clock.monotonic_s()
        settings = self._settings
        self._client = ModbusTcpClient(
            settings.host, port=settings.port, timeout=settings.timeout_s, retries=0
        )
        if not self._client.connect():  # type: ignore[no-untyped-call]  # pymodbus leaves it bare
            raise TransientError(
                "source.lost",
                f"Cannot reach {self.description}.",
                remedy="Check that it is on, and speaks Modbus/TCP there.",
            )

    def read(self, stop: threading.Event) -> Window | None:
        """Return the next window. Raises TransientError or ContractError; see the rules."""
        while self._pacer.wait(1.0 / self._settings.rate_hz, stop):
            row = self._poll()
            at_s = self._clock.monotonic_s()
            gap_s_max = self._settings.window.gap_s_max
            if gap_s_max and at_s - self._last_row_s > gap_s_max:
                self._window.cut()
            self._last_row_s = at_s
            samples = self._window.push(row)
            if samples is not None:
                self._sequence += 1
                return Window(samples, self._sequence - 1, now_ms(self._clock), at_s)
        return None

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.close()  # type: ignore[no-untyped-call]  # As above

    def _poll(self) -> list[float]:
        """Return a value of each channel, NaN where the device gives none."""
        row = [math.nan] * len(self._settings.channels)
        is_bad = False
        for block in self._blocks:
            words = self._ask(block)
            if words is None:
                is_bad = True
                continue
            self._has_read = True
            for index in block.channels:
                channel = self._settings.channels[index]
                at = channel.address - block.address
                row[index] = decode(channel, words[at : at + channel.words_count])
        self._note_poll(is_bad=is_bad)
        return row

    def _ask(self, block: Block) -> list[int] | None:
        """Return the registers of `block`; None if the device answers with an exception."""
        from pymodbus.exceptions import ModbusException

        assert self._client is not None, "open comes first"
        unit = self._settings.unit
        try:
            if block.table is RegisterTable.HOLDING:
                answer = self._client.read_holding_registers(
                    block.address, count=block.count, device_id=unit
                )
            else:
                answer = self._client.read_input_registers(
                    block.address, count=block.count, device_id=unit
                )
        except (ModbusException, OSError) as error:
            raise TransientError("source.lost", f"Lost {self.description}: {error}.") from error
        if answer.isError():
            self._check_settings(block, answer.exception_code)
            return None
        if len(answer.registers) != block.count:
            raise TransientError(
                "source.lost",
                f"Lost {self.description}: it answered {len(answer.registers)} registers to a "
                f"question for {block.count}.",
            )
        return list(answer.registers)

    def _check_settings(self, block: Block, code: int) -> None:
        """See rule 4."""
        if code not in ILLEGAL_CODES or self._has_read:
            return
        raise ContractError(
            "source.registers",
            f"{self.description} refuses {block.table} registers {block.address} to "
            f"{block.address + block.count - 1} (exception {code}).",
            remedy="Check the addresses (from 0) and tables of the channels, and the unit.",
        )

    def _note_poll(self, *, is_bad: bool) -> None:
        self._bad_polls = self._bad_polls + 1 if is_bad else 0
        self.bad_messages_count += is_bad
        if self._bad_polls >= BAD_POLLS_MAX:
            raise TransientError(
                "source.lost",
                f"Lost {self.description}: {self._bad_polls} polls one after another were refused.",
            )
