"""Templates to answers: the whole page, or only its changing part when htmx asks for it."""

from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cloud_hub.api.auth import PROGRAM_PREFIXES
from cloud_hub.api.errors import error_response
from cloud_hub.dashboard import formats
from shared.clock import Clock, now_ms
from shared.errors import IsthmusError
from shared.plural import counted

TEMPLATES = Path(__file__).parent / "templates"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "tone", "event_tone", "number", "milliseconds", "rate", "percent", "size", "span",
        "ago", "clock", "iso", "short", "share", "setting", "plain", "hours", "figure",
        "stage_ms",
    ):  # fmt: skip
        environment.filters[name] = getattr(formats, name)
    environment.filters["counted"] = counted
    return environment


ENVIRONMENT = _environment()


def render(
    request: Request, name: str, *, clock: Clock, status: int = 200, **values: object
) -> HTMLResponse:
    """Return page `name`: templates/<name>.html, or templates/fragments/<name>.html to htmx."""
    is_fragment = request.headers.get("hx-request") == "true"
    path = f"fragments/{name}.html" if is_fragment else f"{name}.html"
    text = ENVIRONMENT.get_template(path).render(now_ms=now_ms(clock), **values)
    return HTMLResponse(text, status_code=status, headers={"Vary": "HX-Request"})


def render_error(request: Request, error: IsthmusError, status: int) -> Response:
    """Return an error as JSON to programs and to htmx, as a page to people."""
    is_program = request.url.path.startswith(PROGRAM_PREFIXES)
    if is_program or request.headers.get("hx-request") == "true":
        return error_response(error, status)
    back = urlsplit(request.headers.get("referer", "/")).path or "/"
    text = ENVIRONMENT.get_template("error.html").render(error=error, back=back)
    return HTMLResponse(text, status_code=status)
