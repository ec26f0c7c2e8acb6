"""The way of a model made in the cloud: files in, trained, judged, released, served, explained."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud_hub_story import (
    DATASET,
    RECIPE,
    CloudHub,
    HubJob,
    cloud_hub,
    gray_digits,
    import_digits,
    png,
    require_completed,
)
from tests.support.learning_fleet import HELD, MODEL, SPEC, command
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]
NETWORK = b"""
[architecture]
kind = "cnn"
channels = [16, 32]
hidden = 32
"""
ASKED = 40  # Digits of the test part


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[CloudHub]:
    with cloud_hub(tmp_path) as started:
        yield started


def test_a_dataset_becomes_a_released_model_that_answers_and_says_where_it_is_from(
    hub: CloudHub, tmp_path: Path
) -> None:
    imported = import_digits(hub, tmp_path)
    assert imported["layout"] == "idx"
    parts = imported["version"]["counts_by_part"]
    assert parts["test"] == HELD
    drawn = hub.add_checkpoint(spec=SPEC, network=NETWORK)
    judged = command(hub, "datasets", "evaluation", DATASET, "--model", MODEL)
    assert judged["items_count"] == HELD

    recipe = {**RECIPE, "save_every_s": 60.0}
    first = hub.order(checkpoint=drawn, recipe=recipe, is_explained=True, is_released=True)
    # It waits behind the first one: one trains at a time here.
    bad = hub.order(checkpoint=drawn, recipe={**recipe, "epochs": 0.02}, is_released=True, seed=1)
    _require_kept(hub, first, drawn)

    good = require_completed(first)
    checkpoint, candidate_id = good["result_checkpoint_id"], good["candidate_id"]
    assert good["release_version"] == 1, first.told()
    assert good["value"] > 0.9
    events = first.events("started")
    assert [event["items_by_part"] for event in events] == [parts]
    report = first.get("/report")
    assert (report["part"], report["items_count"]) == ("test", HELD)
    plot = hub.ask("GET", f"/cloud-jobs/{first.job_id}/files/{report['plots'][0]['file']}")
    assert plot.content.startswith(b"\x89PNG")

    # The gate chose the form; that form is what is published and what answers.
    verdict = hub.get(f"/candidates/{candidate_id}")["verdict"]
    [chosen] = [variant for variant in verdict["variants"] if variant["is_chosen"]]
    assert verdict["is_passed"]
    assert {variant["precision"] for variant in verdict["variants"]} >= {"fp32", "int8"}
    assert verdict["comparison"]["evaluation_digest"] == judged["digest"]
    _require_served(hub, precision=chosen["precision"])

    # From the release back to the bytes that it was trained on.
    why = json.dumps(command(hub, "why", f"{MODEL}:1"))
    version = imported["version"]
    for word in (candidate_id, first.job_id, checkpoint, drawn, f"{DATASET}:1"):
        assert word in why, word
    assert version["digest"][:12] in why
    assert version["lineage_id"] in why

    # What is worse than what is released is refused; the Job did what it was asked to.
    worse = require_completed(bad)
    assert bad.run()["progress"]["steps_total"] == 1
    assert worse["release_version"] is None
    assert worse["candidate_id"] not in (None, candidate_id)
    assert worse["code"] == "gate.refused", bad.told()
    refused = hub.get(f"/candidates/{worse['candidate_id']}")["verdict"]
    assert not refused["is_passed"]
    assert refused["reasons"]
    assert refused["reasons"][0]["text"] in worse["text"]
    [release] = hub.get("/releases", model=MODEL)["releases"]
    assert release["version"] == 1

    # Nothing needs them any more.
    assert hub.ask("DELETE", f"/checkpoints/{drawn}").is_success
    assert hub.ask("DELETE", f"/datasets/{DATASET}/versions/1").is_success
    gone = json.dumps(command(hub, "why", f"{MODEL}:1"))
    assert "removed" in gone
    hub.check_all()


def _require_kept(hub: CloudHub, job: HubJob, checkpoint: str) -> None:
    """Fail if what a Job needs can be taken from it."""
    assert not job.get()["is_settled"]
    for path in (f"/datasets/{DATASET}/versions/1", f"/datasets/{DATASET}"):
        answer = hub.ask("DELETE", path)
        assert (answer.status_code, answer.json()["code"]) == (409, "dataset.needed"), answer.text
        assert "Job cloud-" in answer.json()["message"]
    answer = hub.ask("DELETE", f"/checkpoints/{checkpoint}")
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint.needed"), answer.text


def _require_served(hub: CloudHub, *, precision: str) -> None:
    """Ask the released model; it must be right about nearly every picture of the test part."""
    pictures, labels = gray_digits()
    shown = slice(-HELD, -HELD + ASKED)
    items = [{"image": base64.b64encode(png(picture)).decode()} for picture in pictures[shown]]
    answer = wait_until(lambda: hub.post(f"/models/{MODEL}/infer", {"items": items}))
    assert (answer["version"], answer["precision"]) == (1, precision)
    said = [one["label"] for one in answer["answers"]]
    right = sum(one == str(label) for one, label in zip(said, labels[shown], strict=True))
    assert right >= 0.85 * ASKED, said
