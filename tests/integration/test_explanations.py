"""Any checkpoint, Job, candidate or release is explained on any dataset; wrong orders are not."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from cloud_hub.training.cloud.order import CloudOrder
from tests.support.digits_hub import DATASET, GROUP, MODEL, DigitsHub, settled

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(GROUP)]
BASE = "/api/v1/explanations"
JOBS = "/api/v1/cloud-jobs"
WRONG: tuple[Any, ...] = ({"wrong": [1]}, [{"wrong": 1}], "\x00wrong", -1e300, 2**70)


def test_a_release_is_explained_on_the_data_it_was_judged_by(digits_hub: DigitsHub) -> None:
    first = digits_hub.get(f"{JOBS}/{digits_hub.first}")
    count = len(digits_hub.get("/api/v1/checkpoints", model=MODEL)["checkpoints"])
    body = {"what": f"{MODEL}:1", "dataset": DATASET, "device": "cpu"}
    body["dataset_version"] = first["dataset_version"]  # Others label more while this runs
    answer = digits_hub.hub.client().post(BASE, json=body)
    assert answer.status_code == 201, answer.text
    ordered = answer.json()
    assert ordered["base_checkpoint_id"] == first["result_checkpoint_id"]
    assert ordered["order"]["is_trained"] is False
    done = settled(digits_hub.hub, ordered["job_id"])
    assert (done["outcome"], done["release_version"]) == ("completed", None)
    assert "judged as it is" in done["text"]
    assert done["result_checkpoint_id"] is None, "nothing was made"
    assert len(digits_hub.get("/api/v1/checkpoints", model=MODEL)["checkpoints"]) == count
    told = digits_hub.get(f"{JOBS}/{ordered['job_id']}/report")
    known = digits_hub.get(f"{JOBS}/{digits_hub.first}/report")
    for part in ("weights_digest", "confusion", "items_count", "accuracy"):
        assert told[part] == known[part]
    assert [row["digest"] for row in told["worst"]] == [row["digest"] for row in known["worst"]]
    name = told["worst"][0]["saliency"][0]
    picture = digits_hub.hub.client().get(f"{JOBS}/{ordered['job_id']}/files/{name}")
    assert picture.content.startswith(b"\x89PNG")
    (run,) = digits_hub.get(f"{JOBS}/{ordered['job_id']}/runs")["runs"]
    assert (run["kind"], run["progress"]["step"]) == ("explain", 0)
    compared = digits_hub.get(f"{JOBS}/compare", a=digits_hub.first, b=ordered["job_id"])
    assert (compared["paired"]["b_gained"], compared["paired"]["b_lost"]) == (0, 0)
    page = digits_hub.hub.client().get(f"/cloud-jobs/{ordered['job_id']}")
    assert page.status_code in (200, 303)


def test_a_command_explains_what_a_job_made_and_shows_the_report(digits_hub: DigitsHub) -> None:
    said = digits_hub.type(
        "explain", digits_hub.second, "--dataset", f"{DATASET}:1", "--device", "cpu", "--watch"
    )
    assert said.code == 0, said.out
    job = said.out.split()[1].rstrip(".")
    assert digits_hub.get(f"{JOBS}/{job}")["order"]["is_trained"] is False
    assert "true \\ said" in said.out
    assert "Its pictures: cloud-hub jobs files cloud-" in said.out
    bad = digits_hub.type("explain", digits_hub.second, "--dataset", f"{DATASET}:x")
    assert bad.code == 3


def test_two_jobs_are_joined_from_the_page_that_compares_them(digits_hub: DigitsHub) -> None:
    http = digits_hub.hub.client()
    pair = {"a": digits_hub.first, "b": digits_hub.second}
    page = http.get("/cloud-jobs/compare", params=pair)
    assert 'action="/cloud-jobs/join"' in page.text
    answer = http.post("/cloud-jobs/join", data=pair, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    done = settled(digits_hub.hub, answer.headers["location"].rpartition("/")[2])
    assert (done["outcome"], done["release_version"]) == ("completed", None)
    assert "joined and judged" in done["text"]
    assert done["result_checkpoint_id"] is not None
    same = {"a": digits_hub.first, "b": digits_hub.first}
    assert 'action="/cloud-jobs/join"' not in http.get("/cloud-jobs/compare", params=same).text
    refused = http.post("/cloud-jobs/join", data=same)
    assert refused.status_code == 400
    assert "two members are the same" in refused.text


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("ckpt-none", 404, "checkpoint.unknown"),
        ("cloud-none", 404, "job.unknown"),
        ("job-none", 404, "job.unknown"),
        ("cand-none", 404, "candidate.unknown"),
        (f"{MODEL}:99", 404, "release.unknown"),
        (MODEL, 400, "explanation.what"),
        ("../x", 400, "request.invalid"),
        (f"{MODEL}:0", 400, "request.invalid"),
    ],
)
def test_what_there_is_not_is_refused(
    digits_hub: DigitsHub, what: str, status: int, code: str
) -> None:
    answer = digits_hub.hub.client().post(BASE, json={"what": what, "dataset": DATASET})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_order_that_trains_nothing_holds_nothing_of_training(digits_hub: DigitsHub) -> None:
    kept = digits_hub.get(f"{JOBS}/{digits_hub.first}")["result_checkpoint_id"]
    plain = {"model": MODEL, "dataset": DATASET, "checkpoint": kept, "is_trained": False}
    space = {"space": {"recipe.epochs": {"kind": "choice", "values": [1]}}}
    for field, value in (
        ("is_released", True), ("folds", 3), ("search", space), ("teacher", kept),
        ("is_transfer", True), ("ensemble", [kept, kept]),
    ):  # fmt: skip
        order = {**plain, "is_released": False, field: value}
        answer = digits_hub.hub.client().post(JOBS, json=order)
        assert (answer.status_code, answer.json()["code"]) == (400, f"order.{field}")
        assert answer.json()["message"].startswith(f"{field}: ")


def _fields(shape: inspect.Type, path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every field below a struct: its path, and the kinds on the way, "" for no union."""
    if isinstance(shape, inspect.UnionType):
        for one in shape.types:
            yield from _fields(one, path)
    if not isinstance(shape, inspect.StructType):
        return
    tag = str(shape.tag) if shape.tag is not None else ""
    for field in shape.fields:
        at = f"{path}.{field.encode_name}" if path else field.encode_name
        yield at, (tag,)
        for below, kinds in _fields(field.type, at):
            yield below, (tag, *kinds)


FIELDS = sorted(set(_fields(inspect.type_info(CloudOrder), "")))


def test_every_field_of_an_order_made_wrong_in_turn_is_refused_by_its_name(
    digits_hub: DigitsHub,
) -> None:
    """Each field, however deep, gets values of wrong kinds; the answer names it, and is a 400."""
    assert len(FIELDS) > 100
    http = digits_hub.hub.client()
    before = len(digits_hub.get(JOBS)["jobs"])
    for path, kinds in FIELDS:
        names = path.split(".")
        if names[0] in ("spec", "network") or "teacher" in names[1:]:
            continue  # The same structs as uploads have, tried there
        for wrong in WRONG:
            order: dict[str, Any] = {"model": MODEL, "dataset": DATASET, "checkpoint": "ckpt-1"}
            node = order
            for name, kind in zip(names[:-1], kinds[1:], strict=True):
                node = node.setdefault(name, {"kind": kind} if kind else {})
            node[names[-1]] = wrong
            answer = http.post(JOBS, content=msgspec.json.encode(order))
            told = answer.json()
            assert (answer.status_code, told["code"]) == (400, "request.invalid"), (path, wrong)
            assert names[-1] in told["message"], (path, wrong, told)
    assert len(digits_hub.get(JOBS)["jobs"]) == before
