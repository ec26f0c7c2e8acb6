"""How the dashboard writes numbers, times and states. Pure; each function is a Jinja filter."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

NOTHING = "–"
SECONDS_OF_UNIT = (("d", 86_400), ("h", 3600), ("min", 60))
# A state's colour; whatever is not here is quiet. One table, so that a word looks alike everywhere.
TONES: Mapping[str, str] = MappingProxyType(
    {
        "running": "busy",
        "held": "warn",
        "undoing": "back",
        "undone": "back",
        "done": "good",
        "updated": "good",
        "updating": "busy",
        "targeted": "busy",
        "failed": "bad",
        "unknown": "warn",
        "refused": "bad",
        "revoked": "bad",
        "settled": "good",
        "fetching": "busy",
        "staged": "busy",
        "trial": "busy",
        "ok": "good",
        "started": "warn",
        "passed": "good",
        "stable": "good",
        "beta": "busy",
        "submitted": "warn",
        "approved": "busy",
        "dispatched": "busy",
        "completed": "good",
        "stopped": "warn",
        "joining": "busy",
        "ready": "good",
        "silent": "",
        "not-worse": "good",
        "worse": "bad",
        "cannot-tell": "warn",
        "published": "good",
    }
)
TONES_OF_EVENTS = (
    ("failed", "bad"),
    ("refused", "bad"),
    ("undo", "back"),
    ("back", "back"),
    ("unknown", "warn"),
    ("silent", "warn"),
    ("held", "warn"),
    ("lost", "warn"),
    ("excused", "warn"),
    ("repeated", "warn"),
    ("updated", "good"),
    ("accepted", "good"),
    ("closed", "good"),
    ("proved", "good"),
    ("done", "good"),
    ("passed", "good"),
    ("started", "busy"),
    ("targeted", "busy"),
    ("progressed", "busy"),
)


def tone(state: str) -> str:
    """Return the colour class of a state."""
    return TONES.get(str(state), "")


def event_tone(code: str) -> str:
    """Return the colour class of a timeline entry's code ("wave.failed")."""
    tail = code.rpartition(".")[2]
    return next((colour for part, colour in TONES_OF_EVENTS if part in tail), "")


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands apart."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def milliseconds(value: float | None) -> str:
    """Return a span in milliseconds, with as many digits as matter."""
    if value is None:
        return NOTHING
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def rate(value: float | None) -> str:
    """Return items a second."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Return a share as per cent."""
    return NOTHING if value is None else f"{value * 100:.0f} %"


def size(value: int | None) -> str:
    """Return a number of bytes in its fitting unit."""
    if value is None:
        return NOTHING
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def span(seconds: float) -> str:
    """Return a span of time in its fitting unit."""
    value = max(0.0, seconds)
    for unit, unit_s in SECONDS_OF_UNIT:
        if value >= 2 * unit_s:
            return f"{value / unit_s:.0f} {unit}"
    return f"{value:.0f} s"


def ago(at_ms: int | None, now_ms: int) -> str:
    """Return how long ago something was."""
    if not at_ms:
        return "never"
    seconds = (now_ms - at_ms) / 1000
    return "just now" if seconds < 2 else f"{span(seconds)} ago"


def clock(at_ms: int | None, now_ms: int) -> str:
    """Return the time of day where the hub stands, with the date if it is another day."""
    if not at_ms:
        return NOTHING
    at = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone()
    today = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone().date()
    return at.strftime("%H:%M:%S" if at.date() == today else "%d %b %Y %H:%M")


def iso(at_ms: int | None) -> str:
    """Return a time for machines."""
    return datetime.fromtimestamp((at_ms or 0) / 1000, UTC).isoformat(timespec="milliseconds")


def short(digest: str | None) -> str:
    """Return the beginning of a digest."""
    return (digest or NOTHING)[:10]
