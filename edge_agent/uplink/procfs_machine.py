"""What this machine is, from /proc and /sys: hardware and boot id. Elsewhere it says less."""

import os
import platform
from pathlib import Path

from shared.wire.presence import Hardware

TEXT_CHARS_MAX = 120
_BOARD_FILES = (
    Path("/proc/device-tree/model"),  # Raspberry Pi, Jetson
    Path("/sys/devices/virtual/dmi/id/product_name"),
)


def read_hardware() -> Hardware:
    """Return what the device is made of."""
    pages = os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else 0
    return Hardware(
        machine=platform.machine()[:TEXT_CHARS_MAX],
        board=_board()[:TEXT_CHARS_MAX],
        cores_count=os.cpu_count() or 0,
        memory_bytes=pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else 0,
    )


def read_boot_id() -> str:
    """Return a text that changes when the machine restarts; empty if it cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:TEXT_CHARS_MAX]
    except OSError:
        return ""


def _board() -> str:
    """Return the board and its processor: both say which devices are equally fast."""
    names = dict.fromkeys(name for name in (_board_name(), _processor()) if name)
    return ", ".join(names) or "unknown"


def _board_name() -> str:
    for path in _BOARD_FILES:
        try:
            text = path.read_text().strip("\0 \n")
        except OSError:
            continue
        if text:
            return text
    return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
