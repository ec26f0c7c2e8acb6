"""Nothing that anybody can send makes the hub fail: every answer is one that the table knows."""

import json
import string
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api_client import ApiHub

pytestmark = pytest.mark.slow
EXAMPLES = 400
ALLOWED = frozenset({200, 201, 303, 400, 404, 405, 409, 411, 413, 422})
DEVICE_PATHS = ("/api/v1/enrolment", "/api/v1/device-samples")
FIELDS = (
    "name", "groups", "ttl_s", "model", "version", "group", "devices", "waves", "bake_s", "notes",
    "wave_deadline_s", "trial", "why", "excuse_silent", "failure_share_max", "failure_count_min",
    "items_min", "deadline_s", "token", "csr_pem", "hardware", "undo_on_failure", "release",
    "failure_percent", "deadline_minutes", "next", "metrics", "lineage_id", "strategy", "rounds",
    "epochs", "learning_rate", "devices_min", "encoding", "method", "checks", "mandatory",
    "local_privacy", "needs_approval", "spec", "network", "weights", "dataset", "recipe", "search",
    "trained", "folds", "space",
)  # fmt: skip
ODD = (
    "\x00", "a\x00b", "\ud800", "😀", "-1", "1e400", "digits", "digits:1", "100%", "1", "../x",
    "%00", "' OR 1=1 --", "<script>", "a" * 3000,
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(ODD), st.text(max_size=20), st.text(alphabet=string.ascii_lowercase, min_size=1)
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    texts,
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)
bodies = st.one_of(st.dictionaries(st.sampled_from(FIELDS), values, max_size=6), values)
FORMS = (
    "/login", "/enrol", "/rollouts/new", "/devices/{x}/rename", "/devices/{x}/groups",
    "/rollouts/{x}/undo", "/jobs/new", "/jobs/{x}/stop", "/jobs/{x}/approve",
    "/cloud-jobs/new", "/cloud-jobs/{x}/stop",
)  # fmt: skip
PAGES = ("/", "/devices/{x}", "/devices/{x}/chart", "/rollouts/{x}", "/rollouts/new", "/audit",
         "/jobs", "/jobs/new", "/jobs/{x}", "/candidates/{x}", "/cloud-jobs/new", "/cloud-jobs/{x}",
         "/cloud-jobs/{x}/curves", "/cloud-jobs/{x}/report", "/cloud-jobs/compare",
         "/usage")  # fmt: skip


def _operations(hub: ApiHub) -> list[tuple[str, str]]:
    found = [
        (method, path)
        for path, operations in sorted(hub.app.openapi()["paths"].items())
        for method in sorted(operations)
        if path not in ("/api/v1/live", "/api/v1/operators/rotate")
    ]
    return [*found, *(("get", page) for page in PAGES)]


def _path_of(data: st.DataObject, template: str, known: list[str]) -> str:
    """Return `template` with its parameters filled in by something known, or anything at all."""
    parts = []
    for part in template.split("/"):
        if part.startswith("{"):
            chosen = data.draw(st.one_of(st.sampled_from(known), texts))
            part = "".join(f"%{byte:02x}" for byte in chosen.encode("utf-8", "surrogatepass")[:200])
        parts.append(part)
    return "/".join(parts)


@pytest.fixture
def client(api_hub: ApiHub) -> httpx.Client:
    client = api_hub.client()
    client.headers["Origin"] = api_hub.url
    return client


@pytest.fixture
def known(api_hub: ApiHub) -> list[str]:
    device = api_hub.enrol(2)[0].device_id
    rollout = api_hub.client().post("/api/v1/rollouts", json={"model": "digits", "version": 1})
    return [device, rollout.json()["rollout"]["rollout_id"], "digits", "1", "2", "stable"]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_request_makes_the_api_fail(
    api_hub: ApiHub, client: httpx.Client, known: list[str], data: st.DataObject
) -> None:
    method, template = data.draw(st.sampled_from(_operations(api_hub)))
    path = _path_of(data, template, known)
    body = data.draw(bodies)
    query = data.draw(st.dictionaries(st.sampled_from(QUERY), texts, max_size=3))
    content = json.dumps(body).encode("ascii")  # NaN, surrogates and all
    answer = client.request(
        method,
        path,
        params={name: _sendable(value) for name, value in query.items()},
        content=content if method != "get" else None,
        headers={"Content-Type": "application/json"},
    )
    _check(answer, (method, path, body, query))


@settings(
    max_examples=EXAMPLES // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_form_makes_the_dashboard_fail(
    client: httpx.Client, known: list[str], data: st.DataObject
) -> None:
    path = _path_of(data, data.draw(st.sampled_from(FORMS)), known)
    fields = data.draw(st.dictionaries(st.sampled_from(FIELDS), texts, max_size=8))
    answer = client.post(path, data={name: _sendable(text) for name, text in fields.items()})
    if answer.status_code not in (401, 429):  # /login
        _check(answer, (path, fields))


QUERY = (
    "limit", "before", "after", "since_ms", "pipeline", "group", "model", "q", "version", "a", "b",
    "run", "tail", "by", "month", "format", "owner", "tool", "part", "file_name",
)  # fmt: skip


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _check(answer: httpx.Response, asked: Any) -> None:
    # Devices that fail too often are told to wait.
    allowed = ALLOWED | {429} if answer.url.path.startswith(DEVICE_PATHS) else ALLOWED
    assert answer.status_code in allowed, (asked, answer.status_code, answer.text[:300])
    is_page = answer.headers.get("content-type", "").startswith("text/html")
    if answer.status_code >= 400 and not is_page:
        assert set(answer.json()) == {"code", "message", "remedy"}, asked
