"""Spans of time as people type them: "90s", "15m", "2h", "7d"."""

import argparse
import re
from typing import Final

SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"^(\d{1,9}(?:\.\d{1,3})?)([smhd]?)$")


def parse_span_s(text: str) -> float:
    """Return "90", "90s", "15m", "2h" or "7d" in seconds."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time: write 90s, 15m, 2h or 7d")
    return float(match[1]) * SECONDS[match[2] or "s"]
