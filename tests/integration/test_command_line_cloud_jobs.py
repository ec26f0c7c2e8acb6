"""Training from the command line: order, watch, report, release, ask what is served."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_hub.command_line.ask_commands import answer_text, read_items
from cloud_hub.command_line.cloud_job_answers import TrainingRuns
from cloud_hub.command_line.cloud_job_watch import bar_text
from cloud_hub.command_line.parser import build_parser, parse
from cloud_hub.command_line.train_arguments import parse_variation, read_cloud_order
from shared.errors import ContractError
from tests.support.api_client import ApiHub
from tests.support.digits_hub import (
    DATASET,
    GROUP,
    MODEL,
    DigitsHub,
    type_here,
    type_in_terminal,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group(GROUP)]
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_model_is_ordered_watched_reported_released_and_asked(
    digits_hub: DigitsHub, tmp_path: Path
) -> None:
    said = digits_hub.said
    assert said.code == 0, said.out
    lines = said.out.splitlines()
    assert lines[0].startswith(f"Ordered {digits_hub.first}.")
    assert any("Began on cpu" in line for line in lines)
    assert sum("evaluated: accuracy" in line for line in lines) == 2
    assert "It became release numerals:1." in lines[-1]

    report = digits_hub.type("jobs", "report", digits_hub.first)
    assert (report.code, "105 items of digits, part test" in report.out) == (0, True)
    assert "true \\ said" in report.out
    told = json.loads(digits_hub.type("jobs", "report", digits_hub.first, "--json").out)
    assert told["items_count"] == 105
    assert digits_hub.type("models", "show", MODEL, "1").code == 0

    picture = next((digits_hub.folder / "pictures" / "0").iterdir())
    asked = digits_hub.type("models", "ask", MODEL, picture, picture)
    assert (asked.code, asked.out.count(picture.name)) == (0, 2)
    assert f"{MODEL} version 1" in asked.out
    items = tmp_path / "items.json"
    items.write_text(json.dumps({"items": read_items(picture)}))
    answers = json.loads(digits_hub.type("models", "ask", MODEL, items, "--json").out)["answers"]
    assert answers[0]["label"] == "0"
    usage = digits_hub.type("usage")
    assert f"{MODEL} was asked" in usage.out


def test_jobs_of_both_kinds_are_listed_shown_and_explained(digits_hub: DigitsHub) -> None:
    out = digits_hub.type("jobs", "list", "--model", MODEL).out
    assert digits_hub.first in out
    assert "release numerals:1" in out
    told = json.loads(digits_hub.type("jobs", "list", "--json").out)
    assert told["jobs"] == []
    assert digits_hub.first in {job["job_id"] for job in told["cloud_jobs"]}
    shown = digits_hub.type("jobs", "show", digits_hub.second)
    assert "from ckpt-" in shown.out
    assert "The run  finished" in shown.out
    told = json.loads(digits_hub.type("jobs", "show", digits_hub.second, "--json").out)
    assert set(told) == {"job", "runs"}
    assert "evaluated" in digits_hub.type("jobs", "events", digits_hub.first).out
    assert digits_hub.type("jobs", "logs", digits_hub.first, "--tail", 100).code == 0
    watched = digits_hub.type("jobs", "watch", digits_hub.second)
    assert (watched.code, "Completed." in watched.out.splitlines()[-1]) == (0, True)
    assert "Data digits:1:" in digits_hub.type("why", f"{MODEL}:1").out
    assert "Before that:" in digits_hub.type("why", digits_hub.second).out
    for words in (("rounds",), ("devices",), ("approve",)):
        assert digits_hub.type("jobs", *words, digits_hub.first).code == 4
    assert digits_hub.type("jobs", "stop", digits_hub.first).code == 4
    assert digits_hub.type("jobs", "show", "cloud-none").code == 4


def test_jobs_are_compared_and_their_pictures_kept(digits_hub: DigitsHub, tmp_path: Path) -> None:
    compared = digits_hub.type("jobs", "compare", digits_hub.first, digits_hub.second)
    assert "A is better" in compared.out
    assert "recipe.learning_rate" in compared.out
    listed = digits_hub.type("jobs", "files", digits_hub.first)
    assert "confusion.png" in listed.out
    folder = tmp_path / "report"
    told = digits_hub.type("jobs", "files", digits_hub.first, "--to", folder, "--json")
    names = {file["name"] for file in json.loads(told.out)["files"]}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "confusion.png").read_bytes().startswith(PNG)
    assert "It searches nothing" in digits_hub.type("jobs", "trials", digits_hub.first).out


def test_usage_is_a_table_for_people_and_of_commas_for_programs(digits_hub: DigitsHub) -> None:
    assert "lab" in digits_hub.type("usage").out
    (row,) = csv.DictReader(io.StringIO(digits_hub.type("usage", "--owner", "lab", "--csv").out))
    assert (row["model"], float(row["device_seconds"]) > 0) == (MODEL, True)
    told = json.loads(digits_hub.type("usage", "--by", "model", "--csv", "--json").out)
    assert [each["model"] for each in told["rows"]] == [MODEL]
    assert digits_hub.type("usage", "--month", "later").code == 3


def test_a_search_varies_tries_and_marks_the_best(digits_hub: DigitsHub) -> None:
    words = (
        "train", "--model", MODEL, "--dataset", f"{DATASET}:1", "--sampler", "grid", "--pruner",
        "none", "--vary", "recipe.learning_rate=0.001,30.0", "--trials", 2, "--epochs", 1,
        "--items", 64, "--batch", 32, "--device", "cpu", "--set", "recipe.threads=1",
        "--no-release", "--no-report", "--checkpoint", _kept(digits_hub),
    )  # fmt: skip
    job = digits_hub.type(*words).out.split()[1].rstrip(".")
    watched = type_in_terminal(digits_hub.hub, "jobs", "watch", job)
    assert watched.code == 0, watched.out
    assert "searches among 2 trials" in watched.out  # Below the live table
    assert "device-s" in watched.out
    assert "Trial 0: Completed." in watched.out
    trials = digits_hub.type("jobs", "trials", job)
    assert "recipe.learning_rate" in trials.out
    assert "* the best" in trials.out
    (best,) = (t for t in digits_hub.get(f"/api/v1/cloud-jobs/{job}/trials")["trials"]
               if t["is_best"])  # fmt: skip
    assert best["params"] == {"recipe.learning_rate": 0.001}


def test_a_bad_order_names_its_field_and_ends_with_3(
    digits_hub: DigitsHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    start = ("--model", MODEL, "--dataset", DATASET)
    strange = tmp_path / "order.json"
    strange.write_text('{"recipe": {"epochs": "many"}}')
    broken = tmp_path / "order.toml"
    broken.write_text("model = ")
    for words, code, field in (
        ((*start, "--epochs", "-1"), 3, "$.recipe.epochs"),
        ((*start, "--folds", "99"), 3, "$.folds"),
        ((*start, "--order", str(strange)), 3, "$.recipe.epochs"),
        ((*start, "--order", str(broken)), 3, "order.toml"),
        ((*start, "--trials", "3"), 3, "--vary"),
        ((*start, "--only", "tail"), 3, "trained.prefixes"),
        (("--dataset", DATASET), 3, "model"),
        (("--model", MODEL), 3, "dataset"),
        (("--model", "nobody", "--dataset", DATASET), 3, "--spec"),
        (("--model", MODEL, "--dataset", "cats"), 4, "cats"),
        (("--model", MODEL, "--dataset", "digits:x"), 3, "digits:x"),
        ((*start, "--executor", "ray"), 4, "executor"),
    ):
        assert digits_hub.type("train", *words).code == code, words
        assert field in capsys.readouterr().err, words


def test_labels_are_exported_and_brought_back(digits_hub: DigitsHub, tmp_path: Path) -> None:
    file = tmp_path / "out.zip"
    words = ("datasets", "export", DATASET, "--tool", "label-studio", "--part", "validation")
    told = json.loads(digits_hub.type(*words, "--to", file, "--json").out)
    assert told["bytes_count"] == file.stat().st_size
    assert digits_hub.type(*words, "--to", file).code == 3  # It is there already
    back = digits_hub.type("datasets", "import-labels", DATASET, file, "--tool", "label-studio")
    assert (back.code, "Nothing changed" in back.out) == (0, True)
    junk = tmp_path / "junk.xml"
    junk.write_text("<annotations>")
    assert digits_hub.type("datasets", "import-labels", DATASET, junk, "--tool", "cvat").code == 3
    missing = ("datasets", "export", "cats", "--tool", "cvat", "--to", tmp_path / "cats.zip")
    assert digits_hub.type(*missing).code == 4
    assert not list(tmp_path.glob("cats*"))


def test_flags_win_over_the_file_and_become_an_order(tmp_path: Path) -> None:
    file = tmp_path / "order.toml"
    file.write_text(
        'model = "m"\ndataset = "d"\ncheckpoint = "c"\n[recipe]\nepochs = 5.0\nbatch = 8\n'
        '[method]\nkind = "distillation"\ntemperature = 2.0\n'
    )
    order = _order("--order", file, "--epochs", 7, "--soft-share", 0.5, "--dataset", "e:4")
    assert order["recipe"] == {"epochs": 7.0, "batch": 8}
    assert order["method"] == {"kind": "distillation", "temperature": 2.0, "soft_share": 0.5}
    assert (order["dataset"], order["dataset_version"]) == ("e", 4)
    other = _order("--order", file, "--method", "adversarial", "--attack", "fgsm", "--lora", 4)
    assert other["method"] == {"kind": "adversarial", "attack": "fgsm"}
    assert other["trained"] == {"kind": "lora", "rank": 4}
    plain = _order("--model", "m", "--dataset", "d", "--focal-gamma", 2, "--no-release", "--set",
                   "recipe.augmentation.shift=0.1")  # fmt: skip
    assert plain["checkpoint"] == "newest-of-m"
    assert plain["method"] == {"kind": "supervised", "focal_gamma": 2.0}
    assert plain["is_released"] is False
    assert plain["recipe"]["augmentation"] == {"shift": 0.1}


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("recipe.learning_rate=0.001:0.1:log", "recipe.learning_rate",
         {"kind": "range", "low": 0.001, "high": 0.1, "is_log": True}),
        ("recipe.batch=32:256", "recipe.batch",
         {"kind": "range", "low": 32, "high": 256, "is_whole": True}),
        ("method.temperature=1.0:8.0:step=0.5", "method.temperature",
         {"kind": "range", "low": 1.0, "high": 8.0, "step": 0.5}),
        ("recipe.optimiser=sgd,muon", "recipe.optimiser",
         {"kind": "choice", "values": ["sgd", "muon"]}),
        ("recipe.has_channels_last=true,false", "recipe.has_channels_last",
         {"kind": "choice", "values": [True, False]}),
    ],
)  # fmt: skip
def test_what_is_varied_is_a_range_or_a_choice(text: str, path: str, values: object) -> None:
    assert parse_variation(text) == (path, values)


@pytest.mark.parametrize("text", ["recipe.batch", "=1:2", "a=", "a=1:x", "a=1:2:lag"])
def test_what_varies_nothing_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_variation(text)


def test_files_become_items_by_what_they_are(tmp_path: Path) -> None:
    window = tmp_path / "w.csv"
    window.write_text("x,y\n1,2\n3,4.5\n")
    assert read_items(window) == [{"window": [[1.0, 2.0], [3.0, 4.5]]}]
    text = tmp_path / "t.txt"
    text.write_text("louder than yesterday")
    assert read_items(text) == [{"text": "louder than yesterday"}]
    one = tmp_path / "one.json"
    one.write_text('{"text": "a"}')
    assert read_items(one) == [{"text": "a"}]
    for name, content in (("a.json", "[1]"), ("b.json", "{"), ("c.csv", "1,2\nx,y\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ContractError, match="file"):
            read_items(tmp_path / name)
    with pytest.raises(ContractError, match="Cannot read"):
        read_items(tmp_path / "none.png")


def test_a_bar_says_how_far_the_run_is_that_trains() -> None:
    def runs(*standing: tuple[str, int, int]) -> TrainingRuns:
        progress = {"epoch": 0.0, "loss": None, "items_per_s": None, "device": "cpu",
                    "last_value": None, "best_value": None, "device_seconds": 0.0}  # fmt: skip
        found = [
            {"index": i, "kind": "fold", "name": f"Fold {i}", "state": state, "sentence": "",
             "attempt": 1, "value": None, "params": {},
             "progress": {**progress, "step": step, "steps_total": total}}
            for i, (state, step, total) in enumerate(standing)
        ]  # fmt: skip
        return msgspec.convert({"runs": found}, TrainingRuns)

    assert bar_text(runs(("finished", 9, 9), ("running", 5, 20), ("queued", 0, 0))) == (
        "[=====               ]  25% "
    )
    assert bar_text(runs(("finished", 9, 9))) == ""


def test_answers_are_told_in_a_line() -> None:
    box = {"label": "cat", "score": 0.9, "left": 0.0, "top": 0.1, "right": 0.5, "bottom": 1.0}
    assert answer_text({"boxes": [box]}) == "cat 90 % at 0.00,0.10-0.50,1.00"
    assert answer_text({"boxes": []}) == "nothing found"
    assert answer_text({"score": 3.5, "is_anomalous": True}) == "3.5000, anomalous"


def test_a_hub_without_jobs_says_what_is_next(empty_hub: ApiHub) -> None:
    assert "cloud-hub train" in type_here(empty_hub, "jobs", "list").out
    assert "Nothing has been trained" in type_here(empty_hub, "usage").out


def _order(*words: object) -> dict[str, Any]:
    args = parse(build_parser(), ["train", *map(str, words)])
    return read_cloud_order(args, lambda model: f"newest-of-{model}")


def _kept(digits_hub: DigitsHub) -> str:
    job = digits_hub.get(f"/api/v1/cloud-jobs/{digits_hub.first}")
    return str(job["result_checkpoint_id"])
