"""What the API says and does: devices, telemetry, releases, rollouts, audit, health, metrics."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_hub.api.services import HubStatus, PartStatus
from cloud_hub.training.cloud.cloud_job import CloudJobState
from cloud_hub.training.job import JobState
from shared.ids import new_session_id
from shared.wire.records import Box, DecisionRecord, Detected, Scored
from tests.support import tiny_models as tiny
from tests.support.api_client import MODEL, ApiHub
from tests.support.enrolled import birth
from tests.support.fleet_simulator import Behaviour
from tests.support.record_bodies import (
    decision_record,
    event_record,
    host_record,
    telemetry_record,
)

pytestmark = pytest.mark.slow
ORDER: dict[str, object] = {"model": "none", "source": {"kind": "camera"}}
Json = dict[str, Any]


def _get(client: httpx.Client, path: str, **query: object) -> Json:
    answer = client.get(f"/api/v1/{path}", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def _start(client: httpx.Client, version: int, **changes: object) -> str:
    body = {"model": MODEL, "version": version, "waves": ["100%"], "bake_s": 0.0, **changes}
    answer = client.post("/api/v1/rollouts", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["rollout"]["rollout_id"])


def test_devices_are_listed_page_by_page(empty_hub: ApiHub) -> None:
    ids = sorted(device.device_id for device in empty_hub.enrol(5))
    client = empty_hub.client()
    first = _get(client, "devices", limit=2)
    assert [d["device_id"] for d in first["devices"]] == ids[:2]
    second = _get(client, "devices", limit=2, after=first["next"])
    third = _get(client, "devices", limit=2, after=second["next"])
    assert [d["device_id"] for d in third["devices"]] == ids[4:]
    assert third["next"] is None


def test_a_device_is_renamed_grouped_and_revoked(empty_hub: ApiHub) -> None:
    device = empty_hub.enrol()[0].device_id
    client = empty_hub.client()
    path = f"/api/v1/devices/{device}"
    changed = client.patch(path, json={"name": "gate", "groups": ["canary", "berlin"]}).json()
    assert (changed["name"], changed["groups"]) == ("gate", ["berlin", "canary"])
    assert _get(client, "devices", group="canary")["devices"][0]["device_id"] == device
    assert _get(client, "devices", group="other")["devices"] == []
    assert client.patch(path, json={}).status_code == 400
    revoked = client.post(f"{path}/revoke").json()
    assert (revoked["state"], revoked["presence"]) == ("revoked", "offline")
    entries = _get(client, "audit")["entries"]
    assert [(e["action"], e["subject"], e["outcome"]) for e in entries] == [
        ("device.revoke", device, "ok"),
        ("device.group", device, "ok"),
        ("device.rename", device, "ok"),
    ]


def test_a_device_shows_its_hardware_once_it_has_said_it(empty_hub: ApiHub) -> None:
    device = empty_hub.enrol()[0].device_id
    client = empty_hub.client()
    assert _get(client, f"devices/{device}")["hardware"] is None
    empty_hub.services.devices.on_presence(birth(device, new_session_id()))
    assert _get(client, f"devices/{device}")["hardware"]["board"] == "Test Pi"


@pytest.mark.parametrize(
    "path",
    ["", "/decisions", "/telemetry", "/hosts", "/events", "/models", "/receipts"],
)
def test_what_there_is_not_is_404_and_not_an_empty_list(empty_hub: ApiHub, path: str) -> None:
    answer = empty_hub.client().get(f"/api/v1/devices/dev-nobody{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "device.unknown")


def test_a_join_token_comes_with_the_command_that_really_joins(empty_hub: ApiHub) -> None:
    client = empty_hub.client()
    answer = client.post("/api/v1/tokens", json={"name": "gate", "groups": ["canary"]})
    assert answer.status_code == 201
    body = answer.json()
    assert body["join_command"] == (
        f"edge-agent join https://hub.test:8443 --token {body['token']}"
    )
    entry = _get(client, "audit")["entries"][0]
    assert body["token"] not in str(entry)


def test_each_kind_of_record_is_told_as_it_was(empty_hub: ApiHub) -> None:
    device = empty_hub.enrol()[0].device_id
    boxes = Detected(boxes=(Box("car", 0.9, 0.1, 0.2, 0.3, 0.4),))
    more: dict[str, Any] = {
        "pipeline": "yard", "model": "cars", "version": 2,
        "item": 7, "captured_ms": 5, "latency_ms": 1.5,
    }  # fmt: skip
    empty_hub.tell(
        device,
        decision_record(1),
        DecisionRecord(outcome=boxes, **more),
        DecisionRecord(outcome=Scored(0.5, 0.4, True), **more),
        telemetry_record(),
        host_record(),
        event_record("The camera is gone."),
    )
    client = empty_hub.client()
    outcomes = [d["outcome"] for d in _get(client, f"devices/{device}/decisions")["decisions"]]
    assert outcomes == [
        {"kind": "score", "score": 0.5, "threshold": 0.4, "is_anomalous": True},
        {
            "kind": "boxes",
            "boxes": [
                {"label": "car", "confidence": 0.9, "left": 0.1, "top": 0.2,
                 "right": 0.3, "bottom": 0.4}
            ],
        },
        {"kind": "class", "label": "7", "confidence": 0.9},
    ]  # fmt: skip
    yard = _get(client, f"devices/{device}/decisions", pipeline="yard", limit=1)["decisions"]
    assert [decision["model"] for decision in yard] == ["cars"]
    window = _get(client, f"devices/{device}/telemetry")["windows"][0]
    assert (window["items_decided"], window["labels"]) == (95, {"7": 60, "1": 35})
    later_ms = window["received_ms"] + 1
    assert _get(client, f"devices/{device}/telemetry", since_ms=later_ms)["windows"] == []
    assert _get(client, f"devices/{device}/hosts")["hosts"][0]["rss_bytes"] == 90 << 20
    assert _get(client, f"devices/{device}/events")["events"][0]["text"] == "The camera is gone."


@pytest.mark.parametrize("limit", [0, -1, 501, "many"])
def test_a_list_has_its_limit(empty_hub: ApiHub, limit: object) -> None:
    answer = empty_hub.client().get("/api/v1/audit", params={"limit": str(limit)})
    assert answer.status_code == 400
    assert "limit" in answer.json()["message"]


def test_a_model_is_uploaded_judged_and_published(api_hub: ApiHub) -> None:
    client = api_hub.client()
    model = tiny.classifier(3).SerializeToString()
    files = {"model": ("digits.onnx", model), "spec": ("spec.toml", tiny.SPEC.encode())}
    data = {"metrics": '{"accuracy": 0.98}', "notes": "third"}
    answer = client.post("/api/v1/releases", files=files, data=data, timeout=60)
    assert answer.status_code == 201, answer.text
    release = answer.json()
    assert (release["version"], release["metrics"]) == (3, {"accuracy": 0.98})
    assert release["verdict"]["is_passed"] is True
    again = client.post("/api/v1/releases", files=files, data=data, timeout=60)
    assert again.json()["manifest_digest"] == release["manifest_digest"]
    assert len(_get(client, "releases", model=MODEL)["releases"]) == 3
    assert _get(client, "releases/digits/3")["notes"] == "third"


def test_a_model_that_the_gate_refuses_is_a_409_that_says_why(api_hub: ApiHub) -> None:
    client = api_hub.client()
    files = {"model": ("m.onnx", b"not a model"), "spec": ("s.toml", tiny.SPEC.encode())}
    answer = client.post("/api/v1/releases", files=files, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (409, "gate.refused")
    assert "not an ONNX model" in answer.json()["message"]
    entry = _get(client, "audit")["entries"][0]
    assert (entry["action"], entry["outcome"], entry["code"]) == (
        "release.add",
        "refused",
        "gate.refused",
    )
    candidate = _get(client, "candidates", limit=1)["candidates"][0]
    assert candidate["verdict"]["is_passed"] is False
    assert candidate["verdict"]["reasons"]


@pytest.mark.parametrize("metrics", ["nonsense", '{"a": "b"}', "[]", '{"a": NaN}'])
def test_metrics_that_are_none_are_refused(api_hub: ApiHub, metrics: str) -> None:
    files = {"model": ("m.onnx", b"x"), "spec": ("s.toml", tiny.SPEC.encode())}
    answer = api_hub.client().post("/api/v1/releases", files=files, data={"metrics": metrics})
    assert (answer.status_code, answer.json()["code"]) == (400, "release.metrics")


def test_a_broken_spec_is_refused_by_field(api_hub: ApiHub) -> None:
    spec = tiny.SPEC.replace("width = 8", "width = 0").encode()
    files = {"model": ("m.onnx", b"x"), "spec": ("s.toml", spec)}
    answer = api_hub.client().post("/api/v1/releases", files=files)
    assert (answer.status_code, answer.json()["code"]) == (400, "config.invalid")
    assert "input.width" in answer.json()["message"]


def test_channels_name_releases(api_hub: ApiHub) -> None:
    client = api_hub.client()
    assert client.put("/api/v1/channels/digits/stable", json={"version": 2}).status_code == 200
    assert client.put("/api/v1/channels/digits/stable", json={"version": 9}).status_code == 404
    assert client.put("/api/v1/channels/digits/nightly", json={"version": 1}).status_code == 404
    assert _get(client, "models")["models"] == [
        {
            "model": "digits",
            "newest_version": 2,
            "releases_count": 2,
            "channels": {"stable": 2},
        }
    ]
    assert _get(client, "releases/digits/2")["channels"] == ["stable"]
    assert _get(client, "channels")["channels"][0]["version"] == 2


def test_a_rollout_goes_out_and_is_proved(api_hub: ApiHub) -> None:
    devices = api_hub.enrol(3)
    client = api_hub.client()
    rollout = _start(client, 1)
    api_hub.step(8)
    body = _get(client, f"rollouts/{rollout}")
    assert body["rollout"]["state"] == "done"
    assert body["rollout"]["counts"] == {"updated": 3}
    assert body["rollout"]["created_by"] == "operator"
    assert _get(client, "rollouts")["rollouts"] == [body["rollout"]]
    device = devices[0].device_id
    model = _get(client, f"devices/{device}/models")["models"][0]
    assert (model["version"], model["proof"]) == (1, "settled")
    receipts = _get(client, f"devices/{device}/receipts")["receipts"]
    assert receipts[0]["receipt_id"] == model["receipt_id"]
    assert receipts[0]["rollout"] == rollout


def test_a_worse_release_comes_back_and_why_says_so(api_hub: ApiHub) -> None:
    devices = api_hub.enrol(2)
    client = api_hub.client()
    _start(client, 1)
    api_hub.step(8)
    for device in devices:
        device.behaviour = Behaviour.FAILING
    rollout = _start(client, 2)
    api_hub.step(12)
    assert _get(client, f"rollouts/{rollout}")["rollout"]["state"] == "undone"
    part = _get(client, f"rollouts/{rollout}")["devices"][0]
    assert (part["failure"]["code"], part["previous_version"]) == ("trial.worse", 1)
    told = " ".join(_get(client, f"why/{devices[0].device_id}")["sentences"])
    assert "trial.worse" in told
    assert "version 1" in told
    assert any("failed" in text for text in _get(client, f"why/{rollout}")["sentences"])
    one_model = _get(client, f"why/{devices[0].device_id}", model=MODEL)["sentences"]
    assert "trial.worse" in " ".join(one_model)


def test_a_timeline_is_read_on_from_where_it_was(api_hub: ApiHub) -> None:
    api_hub.enrol(2)
    client = api_hub.client()
    rollout = _start(client, 1)
    api_hub.step(8)
    whole = _get(client, f"rollouts/{rollout}/timeline")["entries"]
    assert len(whole) > 5
    assert _get(client, f"rollouts/{rollout}/timeline", after=3)["entries"] == whole[3:]
    assert _get(client, f"rollouts/{rollout}/timeline", after=1, limit=2)["entries"] == whole[1:3]


def test_a_person_holds_resumes_undoes_and_cancels(api_hub: ApiHub) -> None:
    devices = api_hub.enrol(2)
    for device in devices:
        device.behaviour, device.honest_up_to = Behaviour.SLOW, 0
    client = api_hub.client()
    rollout = _start(client, 1)

    def act(name: str, **body: object) -> httpx.Response:
        return client.post(f"/api/v1/rollouts/{rollout}/{name}", json=body)

    assert act("hold", why="night shift").json()["rollout"]["state"] == "held"
    assert act("resume").json()["rollout"]["state"] == "running"
    assert act("undo").json()["rollout"]["state"] == "undoing"
    refused = act("hold")
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout.cannot_hold")
    assert act("cancel").json()["rollout"]["state"] == "cancelled"
    told = _get(client, f"rollouts/{rollout}/timeline")["entries"]
    assert any("night shift" in entry["text"] and entry["by"] == "operator" for entry in told)
    outcomes = [(e["action"], e["outcome"]) for e in _get(client, "audit")["entries"]]
    assert outcomes == [
        ("rollout.cancel", "ok"),
        ("rollout.hold", "refused"),
        ("rollout.undo", "ok"),
        ("rollout.resume", "ok"),
        ("rollout.hold", "ok"),
        ("rollout.start", "ok"),
    ]


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"version": 9}, 404, "release"),
        ({"waves": ["50%", "10%", "100%"]}, 400, "waves"),
        ({"waves": ["1"]}, 400, "waves"),
        ({"failure_share_max": 2.0}, 400, "failure_limit"),
        ({"group": "empty-group"}, 409, "no devices"),
        ({"devices": ["dev-nobody"]}, 409, "dev-nobody"),
        ({"trial": {"items_min": 0}}, 400, "items_min"),
        ({"bake_s": "soon"}, 400, "bake_s"),
        ({"version": True}, 400, "version"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_by_field(
    api_hub: ApiHub, change: Json, status: int, text: str
) -> None:
    api_hub.enrol(3)
    body = {"model": MODEL, "version": 1, **change}
    answer = api_hub.client().post("/api/v1/rollouts", json=body)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["message"]


def test_every_act_is_written_down(api_hub: ApiHub) -> None:
    """Any operation that may change something leaves an entry, also when it is refused."""
    client = api_hub.client()
    bodies: dict[str, Json] = {
        "/api/v1/rollouts": {"model": "none", "version": 1},
        "/api/v1/channels/{model}/{channel}": {"version": 1},
        "/api/v1/devices/{device_id}": {"name": "x"},
        "/api/v1/jobs": {"model": "none"},
        "/api/v1/devices/{device_id}/pipelines/{name}": {"settings": ORDER},
        "/api/v1/pipelines/{name}": {"settings": ORDER, "group": "none"},
        "/api/v1/cloud-jobs": {"model": "none", "dataset": "none", "checkpoint": "none"},
        "/api/v1/explanations": {"what": "cloud-nothing", "dataset": "none"},
        "/api/v1/datasets/{dataset}/collection": {"group": "north"},
        "/api/v1/datasets/{dataset}/import-folder": {"path": "/nothing"},
        "/api/v1/datasets/{dataset}/labels": {"labels": [{"digest": "0" * 64}]},
        "/api/v1/datasets/{dataset}/versions/{version}/evaluation-set": {"model": "none"},
    }
    queries = {
        "/api/v1/datasets/{dataset}/import": {"file_name": "x.zip"},
        "/api/v1/datasets/{dataset}/labels": {"tool": "cvat", "file_name": "x.xml"},
    }
    uploads = {
        "/api/v1/releases": {"model": ("m", b"x"), "spec": ("s", b"x")},
        "/api/v1/checkpoints": {"spec": ("s", b"x"), "network": ("n", b"x")},
    }
    judged = {*uploads, *queries, "/api/v1/models/{model}/evaluation-set"}  # By what the files hold
    acts = 0
    for path, operations in api_hub.app.openapi()["paths"].items():
        for method in set(operations) - {"get"}:
            if path.startswith(("/api/v1/enrolment", "/api/v1/device-samples")):
                continue  # Devices ask there, not operators.
            if path.endswith("/infer"):
                continue  # Asking a model changes nothing.
            filled = re.sub(r"\{\w+\}", "nothing", path.replace("{version}", "1"))
            before = len(api_hub.services.audit.entries(limit=500))
            if path in uploads:
                answer = client.post(filled, files=uploads[path])
            else:
                answer = client.request(
                    method, filled, json=bodies.get(path, {}), params=queries.get(path)
                )
            assert answer.status_code != 400 or path in judged, (path, answer.text)
            entries = api_hub.services.audit.entries(limit=500)
            if path == "/api/v1/devices/{device_id}":
                continue  # Refused before the act: there is no such device.
            assert len(entries) == before + 1, path
            assert entries[0].outcome == ("ok" if answer.is_success else "refused"), path
            acts += 1
    assert acts >= 8


def test_an_act_in_which_the_hub_dies_stays_written_down_as_started(empty_hub: ApiHub) -> None:
    audit = empty_hub.services.audit
    act = audit.act("anna", "rollout.undo", "roll-1")
    act.__enter__()
    assert audit.entries(limit=1)[0].outcome == "started"
    act.__exit__(None, None, None)
    assert audit.entries(limit=1)[0].outcome == "ok"


def test_a_bug_in_an_act_is_written_down_as_failed(empty_hub: ApiHub) -> None:
    with pytest.raises(ZeroDivisionError), empty_hub.services.audit.act("anna", "a", "b"):
        _ = 1 / 0
    entry = empty_hub.services.audit.entries(limit=1)[0]
    assert (entry.outcome, entry.code) == ("failed", "hub.bug")


def test_audit_entries_are_paged(empty_hub: ApiHub) -> None:
    for number in range(5):
        with empty_hub.services.audit.act("anna", "act", str(number)):
            pass
    client = empty_hub.client()
    first = _get(client, "audit", limit=2)["entries"]
    second = _get(client, "audit", limit=2, before=first[-1]["id"])["entries"]
    assert [entry["subject"] for entry in (*first, *second)] == ["4", "3", "2", "1"]


def test_health_is_open_and_turns_503_when_a_part_is_not_well(empty_hub: ApiHub) -> None:
    client = empty_hub.client(token=None)
    good = client.get("/health")
    assert good.status_code == 200
    assert [part["name"] for part in good.json()["parts"]] == ["database", "broker"]
    empty_hub.status.append(HubStatus(parts=(PartStatus("link", is_good=False, detail="down"),)))
    bad = client.get("/health")
    assert bad.status_code == 503
    assert bad.json()["parts"][1] == {"name": "link", "is_good": False, "detail": "down"}
    assert _get(empty_hub.client(), "hub")["is_good"] is False


def test_a_lost_database_is_said_not_hidden(empty_hub: ApiHub) -> None:
    client = empty_hub.client()
    empty_hub.database.close()
    for file in empty_hub.state.glob("hub.db*"):
        file.unlink()
    (empty_hub.state / "hub.db").mkdir()
    health = empty_hub.client(token=None).get("/health")
    assert health.status_code == 503
    assert health.json()["parts"][0]["detail"] == "database.unavailable"
    answer = client.get("/api/v1/devices")
    assert (answer.status_code, answer.json()["code"]) == (503, "database.unavailable")
    assert answer.headers["retry-after"]


def _metric(text: str, name: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith(name + " "))
    return float(line.rpartition(" ")[2])


def test_metrics_count_what_the_hub_does(api_hub: ApiHub) -> None:
    device = api_hub.enrol(3)[0].device_id
    api_hub.tell(device, telemetry_record(window_s=10.0, items_decided=95), decision_record(1))
    api_hub.tell(device, telemetry_record(window_s=10.0, items_decided=95), decision_record(1))
    client = api_hub.client()
    _start(client, 1)
    api_hub.status.append(
        HubStatus(
            messages_by_topic={"records": 7},
            rejected_by_code={"wire.invalid": 2},
            parts=(PartStatus("link", is_good=False),),
        )
    )
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    expected = {
        'isthmus_devices{presence="online"}': 3,
        "isthmus_devices_revoked": 0,
        "isthmus_records_ingested_total": 2,
        "isthmus_records_duplicate_total": 2,
        "isthmus_items_decided_per_second": 9.5,
        'isthmus_messages_total{topic="records"}': 7,
        'isthmus_rejections_total{code="wire.invalid"}': 2,
        'isthmus_part_good{part="database"}': 1,
        'isthmus_part_good{part="link"}': 0,
        'isthmus_rollouts{state="running"}': 1,
        'isthmus_releases{model="digits"}': 2,
        'isthmus_jobs{state="running"}': 0,
    }
    assert {name: _metric(answer.text, name) for name in expected} == expected
    found = [
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if family.documentation and family.type in ("counter", "gauge")
    ]
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert len(found) == len(set(found)) == len(lines), "each once, with HELP and TYPE"
    for state in JobState:
        assert ("isthmus_jobs", ("state", state.value)) in found
    for cloud_state in CloudJobState:
        assert ("isthmus_cloud_jobs", ("state", cloud_state.value)) in found


def test_what_is_not_there_is_said_to_programs_as_json_and_to_people_as_a_page(
    empty_hub: ApiHub,
) -> None:
    client = empty_hub.client()
    check: Callable[[httpx.Response], bool] = lambda a: a.json()["code"] == "page.unknown"  # noqa: E731
    assert check(client.get("/api/v1/nothing"))
    assert client.put("/api/v1/hub").status_code == 405
    page = client.get("/nothing")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    unknown = client.get("/devices/dev-nobody")
    assert unknown.status_code == 404
    assert "There is no such device." in unknown.text
