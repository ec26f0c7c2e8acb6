"""HostSource: readings of this machine itself as a sensor, from /proc and /sys (Linux).

1. Every reading is one row, `rate_hz` times a second; one that is late is not made up for.
2. Rates (CPU, disks, network) are those since the reading before; the first one is made by `open`.
   What cannot be read is a missing value; windowing.py says what becomes of it.
3. A counter that went back (a device was taken away) is a missing value once.
4. A channel that this machine does not have when it is opened is told as a lost source: no window
   would ever be whole.
"""

import math
import os
import threading
from pathlib import Path

from edge_agent.sources.item import Window
from edge_agent.sources.pacer import Pacer
from edge_agent.sources.windowing import RollingWindow
from shared.clock import Clock, now_ms
from shared.errors import TransientError
from shared.pipeline.sources import HostChannel, HostSettings

PROC = Path("/proc")
SYS = Path("/sys")
ZONES_MAX = 32
SECTOR_BYTES = 512  # Of /proc/diskstats, whatever the disk's own are (iostats.rst)
TEMPERATURE_C_MIN, TEMPERATURE_C_MAX = -100.0, 300.0
LOOPBACK = "lo"
NOT_DISKS = ("loop", "ram", "zram", "dm-", "md")  # Their bytes are counted at what they lie on


class HostSource:
    """Implements Source; see the rules above."""

    is_every_item = True

    def __init__(
        self, settings: HostSettings, clock: Clock, *, proc: Path = PROC, sys: Path = SYS
    ) -> None:
        """Args: `proc` and `sys` are where those file systems are."""
        self._settings = settings
        self._clock = clock
        self._pacer = Pacer(clock)
        self._readings = HostReadings(clock, proc=proc, sys=sys)
        self._window = RollingWindow(settings.window, channels_count=len(settings.channels))
        self._last_row_s = 0.0
        self._sequence = 0

    @property
    def description(self) -> str:
        """Return what it is."""
        return "the readings of this machine"

    def open(self) -> None:
        """Start with an empty window. Raises TransientError `source.lost`; see rule 4."""
        missing = [name for name in self._readings.missing() if name in self._settings.channels]
        if missing:
            raise TransientError(
                "source.lost",
                f"This machine has no reading of {', '.join(missing)}.",
                remedy="Leave it out of `channels`, with a model that does without it.",
            )
        self._window.cut()
        self._last_row_s = self._clock.monotonic_s()

    def read(self, stop: threading.Event) -> Window | None:
        """Return the next window."""
        while self._pacer.wait(1.0 / self._settings.rate_hz, stop):
            values = self._readings.read()
            at_s = self._clock.monotonic_s()
            gap_s_max = self._settings.window.gap_s_max
            if gap_s_max and at_s - self._last_row_s > gap_s_max:
                self._window.cut()
            self._last_row_s = at_s
            samples = self._window.push([values[name] for name in self._settings.channels])
            if samples is not None:
                self._sequence += 1
                return Window(samples, self._sequence - 1, now_ms(self._clock), at_s)
        return None

    def close(self) -> None:
        """Nothing is open between two readings."""


class HostReadings:
    """All channels at once; NaN for what cannot be read."""

    def __init__(self, clock: Clock, *, proc: Path = PROC, sys: Path = SYS) -> None:
        """Read nothing yet."""
        self._clock, self._proc, self._sys = clock, proc, sys
        self._counters: dict[HostChannel, float] = {}
        self._read_s = math.nan

    def read(self) -> dict[HostChannel, float]:
        """Return each channel's value; rates since the last call."""
        now_s = self._clock.monotonic_s()
        window_s, self._read_s = now_s - self._read_s, now_s
        busy_s, cores = self._cpu()
        sent_and_received = self._network()
        read_and_written = self._disks()
        counters = {
            HostChannel.CPU_SHARE: busy_s / cores if cores else math.nan,
            HostChannel.NETWORK_IN_BYTES_S: sent_and_received[0],
            HostChannel.NETWORK_OUT_BYTES_S: sent_and_received[1],
            HostChannel.DISK_READ_BYTES_S: read_and_written[0],
            HostChannel.DISK_WRITTEN_BYTES_S: read_and_written[1],
        }
        before, self._counters = self._counters, counters
        rates = {
            name: _rate(counter - before.get(name, math.nan), window_s)
            for name, counter in counters.items()
        }
        return {
            **rates,
            HostChannel.LOAD_1M: _number(_read(self._proc / "loadavg").partition(" ")[0]),
            HostChannel.MEMORY_SHARE: self._memory_share(),
            HostChannel.TEMPERATURE_C: self._temperature_c(),
        }

    def missing(self) -> tuple[HostChannel, ...]:
        """Return the channels that cannot be read now. It counts as a reading; see rule 2."""
        values = self.read()
        now = {**values, **self._counters}
        return tuple(name for name in HostChannel if math.isnan(now[name]))

    def _cpu(self) -> tuple[float, int]:
        """Return the seconds for which all cores together were busy, and how many cores."""
        lines = _read(self._proc / "stat").splitlines()
        cores = sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)
        fields = [_number(text) for text in lines[0].split()[1:9]] if lines else []
        if len(fields) < 8:
            return math.nan, cores
        # All but the fourth and fifth, idle and waiting for a disk (proc_stat(5)).
        busy = fields[0] + fields[1] + fields[2] + sum(fields[5:8])
        return busy / os.sysconf("SC_CLK_TCK"), cores

    def _memory_share(self) -> float:
        values = {}
        for line in _read(self._proc / "meminfo").splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                values[name] = _number(rest.strip().partition(" ")[0])
        total = values.get("MemTotal", math.nan)
        return 1.0 - values.get("MemAvailable", math.nan) / total if total else math.nan

    def _temperature_c(self) -> float:
        """Return the hottest zone's temperature."""
        zones = sorted((self._sys / "class" / "thermal").glob("thermal_zone*/temp"))[:ZONES_MAX]
        degrees = [_number(_read(zone).strip()) / 1000.0 for zone in zones]
        possible = [c for c in degrees if TEMPERATURE_C_MIN <= c <= TEMPERATURE_C_MAX]
        return max(possible, default=math.nan)

    def _network(self) -> tuple[float, float]:
        """Return the bytes that came and went, of all interfaces but the loopback."""
        lines = _read(self._proc / "net" / "dev").splitlines()[2:]
        rows = [line.partition(":") for line in lines if ":" in line]
        fields = [rest.split() for name, _, rest in rows if name.strip() != LOOPBACK]
        whole = [row for row in fields if len(row) > 8]
        if not rows:
            return math.nan, math.nan
        return sum(_number(row[0]) for row in whole), sum(_number(row[8]) for row in whole)

    def _disks(self) -> tuple[float, float]:
        """Return the bytes read and written, of whole disks."""
        try:
            names = {path.name for path in (self._sys / "block").iterdir()}
        except OSError:
            return math.nan, math.nan
        disks = {name for name in names if not name.startswith(NOT_DISKS)}
        rows = [line.split() for line in _read(self._proc / "diskstats").splitlines()]
        whole = [row for row in rows if len(row) > 9 and row[2] in disks]
        if not whole:
            return math.nan, math.nan
        read = sum(_number(row[5]) for row in whole) * SECTOR_BYTES
        return read, sum(_number(row[9]) for row in whole) * SECTOR_BYTES


def _rate(difference: float, window_s: float) -> float:
    """Return what a counter gained a second; NaN for the first time and where it went back."""
    return difference / window_s if window_s > 0.0 and difference >= 0.0 else math.nan


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
