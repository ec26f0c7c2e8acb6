"""One table: an error's family, or its code, to an HTTP status; and the one shape of every error.

1. Every answer that is not a success has the body {"code", "message", "remedy"}.
2. The family decides the status, unless the code has a row of its own.
3. What a request lacks or has too much of is named by field, never by a stack trace.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
    UnavailableError,
)

STATUS_BY_FAMILY: Mapping[type[IsthmusError], int] = MappingProxyType(
    {
        ContractError: 400,
        RefusedError: 409,
        IntegrityError: 422,
        TransientError: 503,
        UnavailableError: 503,
    }
)
STATUS_BY_CODE: Mapping[str, int] = MappingProxyType(
    {
        "auth.token_missing": 401,
        "auth.token_wrong": 401,
        "auth.session_ended": 401,
        "auth.origin": 403,
        "auth.too_many_attempts": 429,
        "enrolment.too_many_failures": 429,
        "samples.too_many_failures": 429,
        "limit.body": 413,
        "limit.length_missing": 411,
        "http.method": 405,
    }
)
UNKNOWN_SUFFIX = ".unknown"  # "device.unknown": there is no such thing
RETRY_AFTER_S = 5
FIELD_ERRORS_MAX = 5
ShowError = Callable[[Request, IsthmusError, int], Response]
_HTTP_CODES: Mapping[int, str] = MappingProxyType({404: "page.unknown", 405: "http.method"})


class ErrorOut(BaseModel):
    """Why a request was not carried out."""

    model_config = ConfigDict(strict=True, frozen=True)

    code: str = Field(description="Stable and dotted; what a program should look at.")
    message: str = Field(description="One sentence for a person.")
    remedy: str = Field(description="What a person can do about it; empty if nothing.")


def status_of(error: IsthmusError) -> int:
    """Return the HTTP status for an error."""
    if error.code in STATUS_BY_CODE:
        return STATUS_BY_CODE[error.code]
    if error.code.endswith(UNKNOWN_SUFFIX) and isinstance(error, RefusedError | ContractError):
        return 404
    return next(s for family, s in STATUS_BY_FAMILY.items() if isinstance(error, family))


def error_body(error: IsthmusError) -> dict[str, str]:
    """Return the body that every refused request gets."""
    return {"code": error.code, "message": error.message, "remedy": error.remedy}


def error_response(error: IsthmusError, status: int | None = None) -> JSONResponse:
    """Return `error` as an HTTP answer; its status is the table's unless another is given."""
    status = status or status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse(error_body(error), status_code=status, headers=headers)


def from_validation(error: RequestValidationError) -> ContractError:
    """Return what is wrong with a request as one of our errors, naming each field."""
    parts = []
    for item in error.errors()[:FIELD_ERRORS_MAX]:
        field = ".".join(str(place) for place in item["loc"] if place != "body") or "body"
        parts.append(f"{field}: {item['msg']}")
    return ContractError(
        "request.invalid",
        "; ".join(parts) + ".",
        remedy="See /api/v1/openapi.json for what this call takes.",
    )


def from_http(error: HTTPException) -> IsthmusError:
    """Return the framework's own refusal (no such page, no such method) as one of our errors."""
    code = _HTTP_CODES.get(error.status_code, "request.invalid")
    if error.status_code == 404:
        return RefusedError(code, "There is nothing at this address.", remedy="Check the path.")
    return ContractError(code, f"{error.detail}.")


def show_as_json(_request: Request, error: IsthmusError, status: int) -> Response:
    """Return `error` as JSON, whoever asks."""
    return error_response(error, status)


def add_error_handlers(app: FastAPI, show: ShowError = show_as_json) -> None:
    """Make `app` answer every error in the one shape; `show` makes the answer."""

    def on_own(request: Request, error: Exception) -> Response:
        assert isinstance(error, IsthmusError)
        return show(request, error, status_of(error))

    def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return show(request, from_validation(error), 400)

    def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return show(request, from_http(error), error.status_code)

    def on_bug(request: Request, _error: Exception) -> Response:
        bug = UnavailableError(
            "hub.bug",
            "The hub failed at this request; its log says where.",
            remedy="Report it with the log lines around this time.",
        )
        return show(request, bug, 500)

    app.add_exception_handler(IsthmusError, on_own)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)
