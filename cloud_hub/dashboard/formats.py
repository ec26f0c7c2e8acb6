"""How the dashboard writes numbers, times and states. Pure; each function is a Jinja filter."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from cloud_hub.explain.report import Interval

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
        "frozen": "warn",
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
        "queued": "",
        "stopping": "warn",
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
        "reconnecting": "warn",
        "stalled": "warn",
        "failing": "bad",
        "waiting for a model": "warn",
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


def stage_ms(value: float) -> str:
    """Return one stage's time in milliseconds, without the unit."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


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


def share(interval: Interval | None) -> str:
    """Return a share with its 95 % interval: "91.3 % (90.7 to 91.8) of 10,000"."""
    if interval is None:
        return NOTHING
    value, low, high = (100 * part for part in (interval.value, interval.low, interval.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f}) of {interval.count:,}"


def setting(value: object) -> str:
    """Return a setting's value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(text: str) -> str:
    """Return a setting as JSON for people: a text without its quotes, nothing as a dash."""
    is_text = len(text) > 2 and text[0] == text[-1] == '"'
    return text[1:-1] if is_text else text if text not in ("", '""', "null") else NOTHING


def hours(seconds: float) -> str:
    """Return device-seconds in the unit that fits."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


def figure(value: float | None) -> str:
    """Return a measure with as many digits as matter."""
    if value is None:
        return NOTHING
    if value == int(value) and abs(value) < 1e9:
        return f"{value:,.0f}"
    return (
        f"{value:,.1f}"
        if abs(value) >= 100
        else f"{value:.4f}"
        if abs(value) < 10
        else f"{value:.2f}"
    )
