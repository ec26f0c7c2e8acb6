"""Who may ask the hub what: tokens, sessions, cookies, limits and headers, over real HTTP."""

import json
import re
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from cloud_hub.api.auth import OPEN_PATHS, SESSION_COOKIE
from cloud_hub.api.http_limits import HEADERS, UPLOAD_PATH, UPLOADS_MAX
from cloud_hub.api.operator_service import LOCAL_TOKEN_FILE
from cloud_hub.api.settings import ApiSettings
from cloud_hub.api.sql_store import operator_sessions, operator_tokens
from shared.wire.enrolment import JOIN_PATH
from tests.support.api_client import ApiHub, open_api_hub
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
HTTP_METHODS = ("get", "post", "put", "patch", "delete")


def _log_in(hub: ApiHub, *, token: str | None = None, **headers: str) -> httpx.Response:
    client = hub.client(token=None)
    sent = {"Origin": hub.url, **headers}
    return client.post("/login", data={"token": token or hub.token}, headers=sent)


def _operations(hub: ApiHub) -> list[tuple[str, str]]:
    """Every operation of the API and of the dashboard, with its parameters filled in."""
    found = []
    for path, operations in hub.app.openapi()["paths"].items():
        filled = re.sub(r"\{version\}", "1", path)
        filled = re.sub(r"\{\w+\}", "anything", filled)
        found += [(method, filled) for method in HTTP_METHODS if method in operations]
    pages = ["/", "/releases", "/rollouts", "/rollouts/new", "/enrol", "/audit", "/devices/x"]
    found += [("get", page) for page in pages]
    found += [("post", "/enrol"), ("post", "/rollouts/new"), ("post", "/devices/x/revoke")]
    return found


def test_nothing_but_the_open_paths_answers_without_an_operator(empty_hub: ApiHub) -> None:
    client = empty_hub.client(token=None)
    operations = _operations(empty_hub)
    assert len(operations) > 40
    for method, path in operations:
        answer = client.request(method, path)
        if path in OPEN_PATHS:
            assert answer.status_code != 401, (method, path)
        elif path.startswith(("/api/", "/metrics")):
            assert answer.status_code == 401, (method, path)
            assert answer.json()["code"] == "auth.token_missing"
            assert answer.headers["www-authenticate"] == "Bearer"
        else:
            assert answer.status_code == 303, (method, path)
            assert answer.headers["location"].startswith("/login?next=/")


def test_a_path_that_only_begins_like_an_open_one_is_closed(empty_hub: ApiHub) -> None:
    client = empty_hub.client(token=None)
    for path in (JOIN_PATH + "x", "/healthy", "/loginx", "/api/v1/enrolment/../devices"):
        assert client.get(path).status_code in (303, 401), path


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer", "Basic abc", "Bearer " + "x" * 5000, "bearer wrong"]
)
def test_a_wrong_token_is_refused(empty_hub: ApiHub, header: str) -> None:
    client = empty_hub.client(token=None)
    answer = client.get("/api/v1/devices", headers={"Authorization": header})
    assert answer.status_code == 401
    assert set(answer.json()) == {"code", "message", "remedy"}


def test_only_hashes_of_secrets_are_stored(empty_hub: ApiHub) -> None:
    cookie = _log_in(empty_hub).cookies[SESSION_COOKIE]
    with empty_hub.database.read() as connection:
        rows = [*connection.execute(operator_tokens.select())]
        rows += [*connection.execute(operator_sessions.select())]
    stored = repr(rows)
    assert len(rows) == 2
    assert empty_hub.token not in stored
    assert cookie not in stored
    for file in empty_hub.state.rglob("hub.db*"):
        assert empty_hub.token.encode() not in file.read_bytes()


def test_the_first_token_is_given_once(empty_hub: ApiHub) -> None:
    assert empty_hub.services.operators.create_first() is None


def test_rotating_ends_the_old_token_and_its_sessions(empty_hub: ApiHub) -> None:
    cookie = _log_in(empty_hub).cookies[SESSION_COOKIE]
    old = empty_hub.client()
    answer = old.post("/api/v1/operators/rotate", json={})
    assert answer.status_code == 200
    assert old.get("/api/v1/devices").status_code == 401
    new = empty_hub.client(token=answer.json()["token"])
    assert new.get("/api/v1/devices").status_code == 200
    browser = empty_hub.client(token=None)
    browser.cookies.set(SESSION_COOKIE, cookie)
    assert browser.get("/").status_code == 303


def test_operators_have_their_own_tokens_and_names_in_the_audit_log(empty_hub: ApiHub) -> None:
    first = empty_hub.client()
    token = first.post("/api/v1/operators/rotate", json={"name": "anna"}).json()["token"]
    empty_hub.client(token=token).post("/api/v1/tokens", json={})
    assert first.get("/api/v1/devices").status_code == 200
    entries = first.get("/api/v1/audit").json()["entries"]
    assert [(e["operator"], e["action"]) for e in entries] == [
        ("anna", "token.create"),
        ("operator", "operator.rotate"),
    ]


def test_the_local_token_is_readable_by_its_owner_only_and_lives_as_long_as_the_hub(
    empty_hub: ApiHub,
) -> None:
    path = empty_hub.state / LOCAL_TOKEN_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    old = path.read_text().strip()
    assert empty_hub.client(token=old).get("/api/v1/devices").status_code == 200
    path.chmod(0o644)
    later = open_api_hub(empty_hub.state)  # The hub starts again.
    with later.serve():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert later.client(token=old).get("/api/v1/devices").status_code == 401
        new = path.read_text().strip()
        assert later.client(token=new).get("/api/v1/devices").status_code == 200
    later.close()


def test_nobody_can_become_the_local_operator(empty_hub: ApiHub) -> None:
    answer = empty_hub.client().post("/api/v1/operators/rotate", json={"name": "local"})
    assert (answer.status_code, answer.json()["code"]) == (409, "operator.reserved")


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(empty_hub: ApiHub) -> None:
    answer = _log_in(empty_hub)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie


def test_a_session_ends_by_itself_and_by_logging_out(empty_hub: ApiHub) -> None:
    browser = empty_hub.client(token=None)
    browser.cookies.set(SESSION_COOKIE, _log_in(empty_hub).cookies[SESSION_COOKIE])
    assert browser.get("/").status_code == 200
    empty_hub.clock.advance(empty_hub.settings.session_hours * 3600 + 1)
    assert browser.get("/").status_code == 303
    again = empty_hub.client(token=None)
    cookie = _log_in(empty_hub).cookies[SESSION_COOKIE]
    again.cookies.set(SESSION_COOKIE, cookie)
    assert again.post("/logout", headers={"Origin": empty_hub.url}).status_code == 303
    again.cookies.set(SESSION_COOKIE, cookie)
    assert again.get("/").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "OWN", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_cookie_alone_changes_nothing(empty_hub: ApiHub, headers: dict[str, str]) -> None:
    browser = empty_hub.client(token=None)
    browser.cookies.set(SESSION_COOKIE, _log_in(empty_hub).cookies[SESSION_COOKIE])
    sent = {name: empty_hub.url if value == "OWN" else value for name, value in headers.items()}
    for path in ("/api/v1/tokens", "/enrol"):
        answer = browser.post(path, headers=sent, json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.origin")
    assert browser.get("/api/v1/devices", headers=sent).status_code == 200
    allowed = browser.post("/api/v1/tokens", headers={"Origin": empty_hub.url}, json={})
    assert allowed.status_code == 201


def test_logging_in_from_another_site_is_refused(empty_hub: ApiHub) -> None:
    assert _log_in(empty_hub, Origin="https://evil.test").status_code == 403


def test_guessing_at_the_login_page_is_slowed_down(empty_hub: ApiHub) -> None:
    for _ in range(empty_hub.settings.login_failures_max):
        assert _log_in(empty_hub, token="wrong").status_code == 401
    assert _log_in(empty_hub, token="wrong").status_code == 429
    assert _log_in(empty_hub).status_code == 429  # The right token must wait too.
    empty_hub.clock.advance(empty_hub.settings.login_window_s + 1)
    assert _log_in(empty_hub).status_code == 303
    entries = empty_hub.services.audit.entries(limit=50)
    assert sum(e.action == "operator.login" and e.outcome == "refused" for e in entries) == 10


def test_every_answer_carries_the_safe_headers(empty_hub: ApiHub) -> None:
    client = empty_hub.client()
    for path in ("/", "/api/v1/devices", "/nope", "/static/app.js", "/health", "/login"):
        answer = client.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (path, name)
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


def test_pages_hold_no_inline_script_or_style_and_nothing_from_elsewhere(
    empty_hub: ApiHub,
) -> None:
    client = empty_hub.client()
    for path in ("/", "/releases", "/rollouts", "/rollouts/new", "/enrol", "/audit", "/login"):
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), path
        assert not re.search(r"<style|\sstyle=|\son\w+=", text), path
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text), path


def test_a_body_over_its_limit_is_refused_unread(empty_hub: ApiHub) -> None:
    client = empty_hub.client()
    large = b"x" * (empty_hub.settings.body_bytes_max + 1)
    answer = client.post("/api/v1/tokens", content=large)
    assert (answer.status_code, answer.json()["code"]) == (413, "limit.body")


def test_only_so_many_uploads_are_taken_at_once(empty_hub: ApiHub) -> None:
    address = urlsplit(empty_hub.url)
    head = (
        f"POST {UPLOAD_PATH} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {empty_hub.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n"
    )
    client = empty_hub.client()
    slow = [
        socket.create_connection((address.hostname or "", address.port or 0), timeout=10)
        for _ in range(2 * UPLOADS_MAX)  # More than enough, whoever else gets in between
    ]
    try:
        for stream in slow:
            stream.sendall(head.encode())

        def is_refused() -> bool:
            answer = client.post(UPLOAD_PATH, files={"model": b"x", "spec": b"x"})
            return (answer.status_code, answer.json()["code"]) == (503, "limit.uploads")

        wait_until(is_refused)
        assert client.get("/api/v1/models").status_code == 200  # Everything else goes on.
    finally:
        for stream in slow:
            stream.close()
    wait_until(lambda: not is_refused())


def test_a_body_that_does_not_say_its_length_is_refused(empty_hub: ApiHub) -> None:
    answer = empty_hub.client().post("/api/v1/tokens", content=iter([b"{}"]))
    assert (answer.status_code, answer.json()["code"]) == (411, "limit.length_missing")


def test_who_is_unknown_is_refused_before_the_body_is_read(empty_hub: ApiHub) -> None:
    stranger = empty_hub.client(token=None)
    large = b"x" * (empty_hub.settings.body_bytes_max + 1)
    assert stranger.post("/api/v1/tokens", content=large).status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ttl_s": "900"}, "ttl_s"),
        ({"ttl_s": True}, "ttl_s"),
        ({"ttl_s": 1}, "ttl_s"),
        ({"groups": ["NOT a group"]}, "groups.0"),
        ({"surprise": 1}, "surprise"),
        ([], "body"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(empty_hub: ApiHub, body: object, field: str) -> None:
    answer = empty_hub.client().post("/api/v1/tokens", json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "request.invalid"
    assert field in answer.json()["message"]


def test_metrics_want_a_token_unless_they_are_opened(empty_hub: ApiHub) -> None:
    assert empty_hub.client(token=None).get("/metrics").status_code == 401


def test_metrics_can_be_opened(tmp_path: Path) -> None:
    hub = open_api_hub(tmp_path, settings=ApiSettings(metrics_are_open=True))
    with hub.serve():
        assert hub.client(token=None).get("/metrics").status_code == 200
        assert hub.client(token=None).get("/api/v1/devices").status_code == 401
    hub.close()


def test_openapi_describes_the_api_whole(empty_hub: ApiHub) -> None:
    schema = empty_hub.client().get("/api/v1/openapi.json").json()
    text = json.dumps(schema)
    assert "HTTPValidationError" not in text
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            where = (method, path)
            assert operation.get("tags"), where
            assert operation.get("summary"), where
            is_open = path in OPEN_PATHS
            assert ("security" in operation) != is_open, where
            if not is_open:
                answers = operation["responses"]
                assert "401" in answers, where
                assert answers["401"]["content"]["application/json"]["schema"]["$ref"].endswith(
                    "ErrorOut"
                ), where
