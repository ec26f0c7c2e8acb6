"""A detector's Verdict where people and programs read it: the API, `why` and the page."""

import io
from dataclasses import replace

import numpy as np
import pytest

from cloud_hub.candidates import sql_store
from cloud_hub.candidates.candidate import (
    Answer,
    BoxScores,
    Candidate,
    CandidateId,
    Comparison,
    Measure,
    SliceRow,
    VariantRow,
    Verdict,
)
from shared.ids import LineageId, ModelName
from tests.support.api_client import ApiHub

pytestmark = pytest.mark.slow  # Serves a hub.

NEW, OLD = BoxScores(0.912, 0.876, 0.834), BoxScores(0.923, 0.887, 0.845)
ROW = SliceRow(
    name="",
    items_count=400,
    accuracy_new=0.7,
    answer=Answer.NOT_WORSE,
    accuracy_old=0.71,
    gained_count=4,
    lost_count=8,
    bound_low=-0.0187,
    bound_high=0.0031,
    margin=0.02,
    measure=Measure.PICTURE_F1,
    boxes_new=NEW,
    boxes_old=OLD,
)
VERDICT = Verdict(
    is_passed=True,
    reasons=(),
    variants=(
        VariantRow("fp32", "fp32", is_chosen=True, text="as it came", agreement=1.0, boxes=NEW),
        VariantRow("int8", "int8", is_chosen=False, text="why not", agreement=0.671, boxes=OLD),
    ),
    slices=(ROW, replace(ROW, name="night", boxes_old=None, accuracy_old=None)),
    comparison=Comparison("0" * 64, 400, 100, "cars:1"),
)
CANDIDATE = Candidate(
    candidate_id=CandidateId("cand-cars"),
    model=ModelName("cars"),
    content_digest="0" * 64,
    lineage_id=LineageId("line-cars"),
    precision="fp32",
    created_ms=1,
    verdict=VERDICT,
)


def test_each_number_has_its_name_wherever_it_is_read(empty_hub: ApiHub) -> None:
    with empty_hub.database.begin() as connection:
        sql_store.insert_candidate(connection, CANDIDATE)
    http = empty_hub.client()
    verdict = http.get("/api/v1/candidates/cand-cars").json()["verdict"]
    everything, night = verdict["slices"]
    assert everything["measure"] == "picture-f1"
    assert everything["boxes_new"] == {
        "picture_f1": 0.912,
        "f1": 0.876,
        "mean_average_precision": 0.834,
    }
    assert (everything["boxes_old"]["f1"], night["boxes_old"]) == (0.887, None)
    assert [row["accuracy"] for row in verdict["variants"]] == [None, None]
    assert verdict["variants"][1]["boxes"]["mean_average_precision"] == 0.845

    told = http.get("/api/v1/why/cand-cars").text
    page = http.get("/candidates/cand-cars").text
    for text in (told, page):
        assert "the mean F1 of a picture is 0.912, 0.923 before" in text
        assert "mAP@.5 0.834, F1 0.876" in text
        assert "F1 0.923" in text
        assert "67.1 %" in text
        assert "Accuracy" not in text


def test_a_set_of_pictures_with_boxes_is_taken_and_a_wrong_one_is_told_by_the_array(
    empty_hub: ApiHub,
) -> None:
    http, path = empty_hub.client(), "/api/v1/models/cars/evaluation-set"
    pictures = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    boxes = np.array([[0, 0.1, 0.1, 0.5, 0.5], [1, 0.2, 0.2, 0.9, 0.9]], np.float32)
    for starts, status in ((np.array([0, 1, 1, 2]), 200), (np.array([0, 1, 2]), 400)):
        buffer = io.BytesIO()
        np.savez(buffer, items=pictures, boxes=boxes, box_starts=starts)
        answer = http.put(path, content=buffer.getvalue(), timeout=60)
        assert answer.status_code == status, answer.text
    assert "box_starts" in answer.json()["message"]
    (only,) = http.get(path).json()["evaluation_sets"]
    assert only["items_count"] == 3
