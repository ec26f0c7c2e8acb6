"""Jobs in the cloud over HTTP: orders, curves, reports, comparisons and usage of real training."""

import csv
import io
import zipfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_hub.api.comparison import PairedAnswer, PairedOut, paired_text
from cloud_hub.api.usage import UsageBy, add_up, usage_csv
from cloud_hub.explain.paired import Paired
from cloud_hub.training.cloud.views import UsageRow
from tests.support.api_client import ApiHub
from tests.support.digits_hub import DATASET, GROUP, MODEL, DigitsHub, settled
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(GROUP)]
BASE = "/api/v1/cloud-jobs"
ODD = ("", "-1", "0", "7", "1e9", "\x00", "../x", "%2e%2e", "cand-1", "csv", "😀")
PNG = b"\x89PNG\r\n\x1a\n"
ORDER: dict[str, Any] = {"model": MODEL, "dataset": DATASET, "checkpoint": "ckpt-1"}
BAD_ORDERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({**ORDER, "recipe": {"epochs": -1}}, "$.recipe.epochs"),
    ({**ORDER, "recipe": {"batch": True}}, "$.recipe.batch"),
    ({**ORDER, "recipe": {"speed": 3}}, "speed"),
    ({**ORDER, "method": {"kind": "magic"}}, "$.method"),
    ({**ORDER, "method": {"kind": "distillation"}}, "teacher"),
    ({**ORDER, "trained": {"kind": "lora", "rank": 0}}, "$.trained.rank"),
    ({**ORDER, "folds": 1}, "$.folds"),
    ({**ORDER, "search": {"space": {"seed": {"kind": "choice", "values": [1]}}}}, "$.search.space"),
    ({**ORDER, "owner": "a\u0007b"}, "$.owner"),
    ({**ORDER, "model": "../x"}, "$.model"),
    ({"model": MODEL, "dataset": DATASET}, "checkpoint"),
    ({"dataset": DATASET}, "model"),
)


@pytest.mark.parametrize(("order", "field"), BAD_ORDERS)
def test_a_bad_order_is_refused_and_names_its_field(
    digits_hub: DigitsHub, order: dict[str, Any], field: str
) -> None:
    answer = digits_hub.hub.client().post(BASE, json=order)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "request.invalid"
    assert field in answer.json()["message"]
    assert "CloudOrder" in answer.json()["remedy"] or field == "$.owner"


def test_what_an_order_names_must_be_there(digits_hub: DigitsHub) -> None:
    http = digits_hub.hub.client()
    kept = digits_hub.get(f"{BASE}/{digits_hub.first}")["result_checkpoint_id"]
    for order, status, code in (
        (ORDER, 404, "checkpoint.unknown"),
        ({**ORDER, "checkpoint": kept, "dataset": "cats"}, 404, "dataset.unknown"),
        ({**ORDER, "checkpoint": kept, "executor": "ray"}, 409, "training.no_ray"),
    ):
        answer = http.post(BASE, json=order)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    space = {"recipe.speed": {"kind": "choice", "values": [1]}}
    answer = http.post(BASE, json={**ORDER, "checkpoint": kept, "search": {"space": space}})
    assert (answer.status_code, answer.json()["code"]) == (400, "order.search")
    assert "recipe.speed" in answer.json()["message"]


def test_a_trained_job_tells_how_it_went_and_what_came_of_it(digits_hub: DigitsHub) -> None:
    job = digits_hub.get(f"{BASE}/{digits_hub.first}")
    assert (job["state"], job["outcome"], job["is_settled"]) == ("finished", "completed", True)
    assert (job["release_version"], job["owner"], job["dataset_version"]) == (1, "lab", 1)
    assert "It became release" in job["sentence"]
    assert job["order"]["recipe"]["epochs"] == 2.0
    listed = digits_hub.get(BASE, model=MODEL, owner="lab")["jobs"]
    assert [each["job_id"] for each in listed] == [digits_hub.first]

    (run,) = digits_hub.get(f"{BASE}/{digits_hub.first}/runs")["runs"]
    assert (run["kind"], run["attempt"], run["progress"]["epoch"]) == ("single", 1, 2.0)
    assert run["value"] == pytest.approx(job["value"])
    assert run["progress"]["device_seconds"] > 0
    curve = digits_hub.get(f"{BASE}/{digits_hub.first}/runs/0/curve")
    assert [point["epoch"] for point in curve["evaluations"]] == [1.0, 2.0]
    assert curve["attempts"][0]["items_by_part"]["train"] > 400
    assert digits_hub.get(f"{BASE}/{digits_hub.first}/trials") == {"trials": []}

    events = digits_hub.get(f"{BASE}/{digits_hub.first}/events")["events"]
    assert events[0]["event"]["event"] == "started"
    assert "Began on cpu" in events[0]["sentence"]
    later = digits_hub.get(f"{BASE}/{digits_hub.first}/events", after=events[1]["number"])
    assert later["events"] == events[2:]
    log = digits_hub.hub.client().get(f"{BASE}/{digits_hub.first}/runs/0/log?tail=100")
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert len(log.content) <= 100
    for path in ("/runs/7/curve", "/runs/7/log", "/events?run=7"):
        answer = digits_hub.hub.client().get(f"{BASE}/{digits_hub.first}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "run.unknown")
    assert digits_hub.hub.client().get(f"{BASE}/cloud-none").status_code == 404


def test_a_report_and_the_pictures_that_it_names(digits_hub: DigitsHub) -> None:
    report = digits_hub.get(f"{BASE}/{digits_hub.first}/report")
    assert (report["part"], report["items_count"]) == ("test", 105)
    assert sum(map(sum, report["confusion"])) == 105
    assert report["accuracy"]["low"] < report["accuracy"]["value"] < report["accuracy"]["high"]
    http = digits_hub.hub.client()
    for name in (report["plots"][0]["file"], report["worst"][0]["saliency"][0]):
        answer = http.get(f"{BASE}/{digits_hub.first}/files/{name}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.content.startswith(PNG)
    for name in ("job.json", "best.npz", "nothing.png", "report.json"):  # There, but no picture
        answer = http.get(f"{BASE}/{digits_hub.first}/files/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "cloud_file.unknown")
    assert http.get(f"{BASE}/{digits_hub.first}/files/..%2fjob.json").status_code in (400, 404)


def test_two_jobs_are_compared_item_by_item(digits_hub: DigitsHub) -> None:
    found = digits_hub.get(f"{BASE}/compare", a=digits_hub.first, b=digits_hub.second)
    paired = found["paired"]
    assert (paired["items_count"], paired["answer"]) == (105, "a_better")
    assert paired["b_lost"] > paired["b_gained"]
    assert paired["high"] < 0
    assert found["sentence"].startswith("A is better")
    assert len(found["paired_by_class"]) == 10
    assert len(found["disagreements"]) == paired["b_gained"] + paired["b_lost"]
    assert found["is_same_data"] is True
    assert {pair["path"] for pair in found["settings"]} >= {"checkpoint", "recipe.learning_rate"}

    same = digits_hub.get(f"{BASE}/compare", a=digits_hub.second, b=digits_hub.second)
    assert same["paired"]["answer"] == "cannot_tell"
    candidate = digits_hub.get(f"{BASE}/{digits_hub.first}")["candidate_id"]
    by_candidate = digits_hub.get(f"{BASE}/compare", a=candidate, b=digits_hub.second)
    assert by_candidate["paired"] == paired
    http = digits_hub.hub.client()
    for a, status in (("cand-none", 404), ("job-1", 404), ("A B", 400)):
        answer = http.get(f"{BASE}/compare", params={"a": a, "b": digits_hub.first})
        assert answer.status_code == status, answer.text


def test_why_a_release_is_there_goes_back_to_its_data(digits_hub: DigitsHub) -> None:
    why = digits_hub.get(f"/api/v1/why/{MODEL}/1")["parts"]
    told = " ".join(text for part in why for text in (part["heading"], *part["sentences"]))
    dataset = digits_hub.get(f"/api/v1/datasets/{DATASET}/versions")["versions"][-1]
    for fact in (digits_hub.first, f"{DATASET}:1", "fresh weights", dataset["lineage_id"]):
        assert fact in told
    parts = digits_hub.get(f"/api/v1/why/{digits_hub.second}")["parts"]
    (chain,) = (part["sentences"] for part in parts if part["heading"] == "Before that")
    first = digits_hub.get(f"{BASE}/{digits_hub.first}")
    assert chain == [
        f"{first['result_checkpoint_id']} was made by {digits_hub.first} on {DATASET}:1, "
        "from fresh weights."
    ]


def test_usage_is_told_by_month_model_and_owner_and_as_a_table(digits_hub: DigitsHub) -> None:
    found = digits_hub.get("/api/v1/usage")
    by_owner = {row["owner"]: row for row in found["rows"]}
    assert by_owner["lab"]["jobs_count"] == 1
    assert by_owner["lab"]["device_seconds"] > 0
    (model,) = digits_hub.get("/api/v1/usage", by="model")["rows"]
    assert (model["model"], model["owner"]) == (MODEL, None)
    assert model["device_seconds"] == pytest.approx(found["device_seconds"])
    month = model["month"]
    assert digits_hub.get("/api/v1/usage", month="1999-12")["rows"] == []
    http = digits_hub.hub.client()
    assert http.get("/api/v1/usage", params={"month": "2026-13"}).status_code == 400
    table = http.get("/api/v1/usage", headers={"Accept": "text/csv"}, params={"owner": "lab"})
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(table.text))
    assert (row["month"], row["model"], row["owner"]) == (month, MODEL, "lab")
    assert http.get("/api/v1/usage?format=csv").text.startswith("month,model,owner,")

    metrics = http.get("/metrics").text
    assert f'isthmus_training_device_seconds_total{{model="{MODEL}",owner="lab"}}' in metrics
    assert 'isthmus_cloud_jobs{state="finished"}' in metrics
    assert "isthmus_training_slots 1.0" in metrics


def test_a_job_is_stopped_once_and_stays_so(digits_hub: DigitsHub) -> None:
    http = digits_hub.hub.client()
    kept = digits_hub.get(f"{BASE}/{digits_hub.first}")["result_checkpoint_id"]
    order = {
        **ORDER,
        "checkpoint": kept,
        "recipe": {"epochs": 100_000, "threads": 1, "batch": 32},
        "device": "cpu",
        "is_released": False,
        "is_explained": False,
    }
    job = http.post(BASE, json=order, timeout=30.0).json()["job_id"]

    def is_training() -> bool:
        (run,) = digits_hub.get(f"{BASE}/{job}/runs")["runs"]
        return float(run["progress"]["epoch"]) >= 1.0

    wait_until(is_training, seconds_max=60.0)
    early = http.get(f"{BASE}/{job}/report")
    assert (early.status_code, early.json()["code"]) == (404, "report.unknown")
    assert "not done yet" in early.json()["message"]
    stopped = http.post(f"{BASE}/{job}/stop", json={"why": "enough"}).json()
    assert stopped["is_stopping"] is True
    assert "enough" in stopped["sentence"]
    done = settled(digits_hub.hub, job)
    assert (done["outcome"], done["release_version"]) == ("stopped", None)
    assert done["result_checkpoint_id"] is not None
    assert http.post(f"{BASE}/{job}/stop", json={}).json()["code"] == "job.cannot_stop"
    acts = {entry["action"] for entry in digits_hub.get("/api/v1/audit")["entries"]}
    assert {"cloud_job.start", "cloud_job.stop"} <= acts


def test_openapi_says_what_an_order_and_a_report_hold(digits_hub: DigitsHub) -> None:
    schema = digits_hub.get("/api/v1/openapi.json")
    schemas = schema["components"]["schemas"]
    body = schema["paths"][BASE]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/CloudOrder"}
    assert {"recipe", "method", "search"} <= schemas["CloudOrder"]["properties"].keys()
    report = schema["paths"][f"{BASE}/{{job_id}}/report"]["get"]["responses"]["200"]
    assert report["content"]["application/json"]["schema"]["$ref"].endswith("/Report")
    for name in _references(schema):
        assert name in schemas, name


def test_labels_go_to_a_tool_and_come_back_as_a_version(digits_hub: DigitsHub) -> None:
    http, path = digits_hub.hub.client(), f"/api/v1/datasets/{DATASET}/labels"
    out = http.get(path, params={"tool": "cvat", "part": "test", "version": 1})
    assert out.headers["content-type"] == "application/zip"
    assert f'filename="{DATASET}-1-cvat.zip"' in out.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(out.content)) as archive:
        assert sum(name.startswith("images/") for name in archive.namelist()) == 105
        annotations = archive.read("annotations.xml")
    back = {"tool": "cvat", "file_name": "annotations.xml"}
    same = http.put(path, params=back, content=annotations, timeout=30.0).json()
    assert (same["changed_count"], same["unchanged_count"]) == (0, 105)
    before = same["version"]["version"]
    changed = annotations.replace(b'label="3"', b'label="8"', 1)
    changed = changed.replace(b"</annotations>", b'<image id="9" name="x.png" width="8" '
                              b'height="8"/></annotations>')  # fmt: skip
    made = http.put(path, params=back, content=changed, timeout=30.0).json()
    assert (made["changed_count"], made["version"]["version"]) == (1, before + 1)
    assert made["problems"] == [{"name": "x.png", "reason": "is no item of this version"}]
    for tool, content, code in (
        ("cvat", b"<!DOCTYPE x [<!ENTITY a 'b'>]><annotations/>", "dataset.layout"),
        ("coco", b"{", "dataset.layout"),
        ("yolo", b"", "dataset.layout"),
    ):
        answer = http.put(path, params={**back, "tool": tool}, content=content, timeout=30.0)
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert http.get(path, params={"tool": "yolo"}).json()["code"] == "dataset.label_tool"
    assert http.get(path, params={"tool": "excel"}).status_code == 400
    empty = http.get(path, params={"tool": "cvat", "is_labelled": "false"})
    assert empty.json()["code"] == "dataset.export_empty"
    work = digits_hub.hub.state / "datasets" / "work"
    wait_until(lambda: not list(work.iterdir()))


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_nothing_asked_of_a_job_makes_the_hub_fail(
    digits_hub: DigitsHub, data: st.DataObject
) -> None:
    first = digits_hub.first
    odd = st.sampled_from((*ODD, first))
    tails = ("", "/runs", "/runs/{}/curve", "/runs/{}/log", "/trials", "/report", "/files/{}",
             "/events", "/stop")  # fmt: skip
    tail = data.draw(st.sampled_from(tails)).format(data.draw(odd))
    job = data.draw(st.sampled_from((first, "compare", "cloud-x", "\x00", "a/b")))
    names = st.sampled_from(("run", "tail", "after", "limit", "a", "b", "owner"))
    query = data.draw(st.dictionaries(names, odd, max_size=3))
    answer = digits_hub.hub.client().get(f"{BASE}/{_quoted(job)}{_quoted(tail)}", params=query)
    assert answer.status_code in (200, 400, 404, 405, 409), (job, tail, query, answer.text)
    if answer.status_code >= 400:
        assert set(answer.json()) == {"code", "message", "remedy"}


def test_a_paired_test_says_which_is_better_only_where_it_can() -> None:
    def decided(gained: int, lost: int, items: int = 1000) -> PairedOut:
        return PairedOut.of(Paired("", items, 900, 900 + gained - lost, gained, lost))

    assert decided(31, 12).answer is PairedAnswer.B_BETTER
    assert decided(12, 31).answer is PairedAnswer.A_BETTER
    assert decided(16, 12).answer is PairedAnswer.CANNOT_TELL
    assert decided(0, 0, items=3).answer is PairedAnswer.CANNOT_TELL
    text = paired_text(decided(31, 12))
    assert text.startswith("B is better: +1.90 points")
    assert "right on 31 items that A has wrong, and wrong on 12 that A has right, of 1,000" in text


def test_usage_is_added_up_within_a_month_and_no_cell_is_a_formula() -> None:
    rows = [
        UsageRow("2026-11", "a", "x", 1.0, 10, 5.0, 1, 1),
        UsageRow("2026-11", "a", "=cmd()", 2.0, 30, 1.0, 2, 1),
        UsageRow("2026-10", "b", "x", 4.0, 20, 2.0, 1, 1),
    ]
    by_model = add_up(rows, UsageBy.MODEL)
    assert [(r.month, r.model, r.owner, r.device_seconds) for r in by_model] == [
        ("2026-11", "a", "", 3.0),
        ("2026-10", "b", "", 4.0),
    ]
    assert (by_model[0].memory_bytes_max, by_model[0].runs_count) == (30, 3)
    assert [r.owner for r in add_up(rows, UsageBy.OWNER)] == ["=cmd()", "x", "x"]
    assert b",'=cmd()," in usage_csv(rows)


def test_a_hub_that_has_trained_nothing_says_so(empty_hub: ApiHub) -> None:
    http = empty_hub.client()
    assert http.get(BASE).json() == {"jobs": []}
    assert http.get("/api/v1/usage").json() == {
        "rows": [], "device_seconds": 0.0, "items_served": {},
    }  # fmt: skip
    answer = http.get(f"{BASE}/cloud-1")
    assert (answer.status_code, answer.json()["code"]) == (404, "job.unknown")
    assert http.get("/api/v1/why/cloud-1").status_code == 404


def _references(tree: object) -> set[str]:
    """Return the names of all schemas that something refers to."""
    if isinstance(tree, dict):
        own = {str(tree["$ref"]).rpartition("/")[2]} if isinstance(tree.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in tree.values()))
    return set().union(*(_references(value) for value in tree)) if isinstance(tree, list) else set()


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or c in "/-." else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02x}" for byte in character.encode())
