"""ProcfsPower: the conditions under which a device may learn, from /proc and /sys (Linux).

1. On battery: the machine has a battery of its own that is not of a mouse or a pen, and nothing
   that feeds it is online. A battery that says it charges is fed, whatever the mains say.
2. Metered: the default route with the lowest metric, IPv4 before IPv6, leaves by a mobile or
   dialled interface, told by its name or by the kernel's DEVTYPE=wwan.
3. What cannot be read is None: it keeps nobody from learning (eligibility.py, rule 4).
"""

import os
from datetime import datetime
from pathlib import Path

from edge_agent.telemetry.procfs_host import PROC, THERMAL, ProcfsHost
from edge_agent.training.eligibility import Conditions
from shared.clock import Clock

POWER = Path("/sys/class/power_supply")
NETWORK = Path("/sys/class/net")
SUPPLIES_MAX = 64
ROUTES_MAX = 1000
MOBILE_PREFIXES = ("wwan", "wwp", "wws", "wwx", "ppp", "rmnet", "ccmni")
_ROUTE_UP = 0x1
_FED = ("Charging", "Full", "Not charging")
_KIB = 1024


class ProcfsPower:
    """Reads Conditions. Not thread-safe."""

    def __init__(
        self,
        clock: Clock,
        *,
        proc: Path = PROC,
        thermal: Path = THERMAL,
        power: Path = POWER,
        network: Path = NETWORK,
    ) -> None:
        """Args: where the kernel tells what; tests give folders of their own."""
        self._clock = clock
        self._proc, self._power, self._network = proc, power, network
        self._host = ProcfsHost(proc, clock, proc=proc, thermal=thermal)

    def read(self, *, is_clock_trusted: bool) -> Conditions:
        """Return how the device stands now."""
        is_on_battery, share = self._read_power()
        interface = self._read_interface()
        return Conditions(
            local_time=datetime.fromtimestamp(self._clock.now_s()).astimezone().time(),
            cores_count=os.cpu_count() or 1,
            is_clock_trusted=is_clock_trusted,
            is_on_battery=is_on_battery,
            battery_share=share,
            temperature_c=self._host.read().temperature_c,
            load=self._read_load(),
            is_metered=self._is_mobile(interface) if interface else None,
            network=interface,
            memory_free_bytes=self._read_memory_free_bytes(),
        )

    def _read_power(self) -> tuple[bool | None, float | None]:
        """Return whether a battery is all that feeds it, and the emptiest battery's share."""
        is_fed, has_battery, shares = False, False, []
        for supply in sorted(self._power.glob("*"))[:SUPPLIES_MAX]:
            if _read(supply / "scope") == "Device":
                continue
            if _read(supply / "type") == "Battery":
                if _read(supply / "present") == "0":
                    continue
                has_battery = True
                is_fed = is_fed or _read(supply / "status") in _FED
                share = _number(_read(supply / "capacity"))
                if share is not None:
                    shares.append(min(max(share / 100, 0.0), 1.0))
            elif _read(supply / "online") not in ("", "0"):
                is_fed = True
        return (not is_fed if has_battery else None), min(shares, default=None)

    def _read_load(self) -> float | None:
        return _number(_read(self._proc / "loadavg").partition(" ")[0])

    def _read_memory_free_bytes(self) -> int | None:
        for line in _read(self._proc / "meminfo").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                kib = _number(rest.split()[0]) if rest.split() else None
                return None if kib is None else int(kib) * _KIB
        return None

    def _read_interface(self) -> str:
        """Return the interface of the default route; "" if there is none."""
        return self._default_route_4() or self._default_route_6()

    def _default_route_4(self) -> str:
        """Return it for IPv4: Iface Destination Gateway Flags RefCnt Use Metric Mask ..."""
        found = []
        for line in _read(self._proc / "net" / "route").splitlines()[1:ROUTES_MAX]:
            fields = line.split()
            if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
                continue
            flags, metric = _hexadecimal(fields[3]), _number(fields[6])
            if flags & _ROUTE_UP and metric is not None:
                found.append((metric, fields[0]))
        return min(found, default=(0.0, ""))[1]

    def _default_route_6(self) -> str:
        """Return it for IPv6: destination, its length, source, its length, hop, metric ... name."""
        found = []
        for line in _read(self._proc / "net" / "ipv6_route").splitlines()[:ROUTES_MAX]:
            fields = line.split()
            if len(fields) < 10 or set(fields[0]) != {"0"} or fields[1] != "00":
                continue
            if fields[9] != "lo" and _hexadecimal(fields[8]) & _ROUTE_UP:
                found.append((_hexadecimal(fields[5]), fields[9]))
        return min(found, default=(0, ""))[1]

    def _is_mobile(self, interface: str) -> bool:
        if interface.startswith(MOBILE_PREFIXES):
            return True
        return "DEVTYPE=wwan" in _read(self._network / interface / "uevent").splitlines()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _hexadecimal(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
