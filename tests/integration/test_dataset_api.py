"""Datasets over HTTP and on the command line, against a hub served on loopback."""

import contextlib
import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cloud_hub.command_line.parser import build_parser, parse, run
from tests.support.api_client import ApiHub
from tests.support.shape_sources import CLASSES, picture, write_pictures, write_windows, zipped

pytestmark = pytest.mark.slow

SPEC = """
model = "shapes"
task = "classification"
input = {kind = "image", width = 8, height = 8}
output = {decoder = "logits", classes = ["square", "circle"]}
"""
NETWORK = 'architecture = {kind = "mlp", hidden = [3]}'
BASE = "/api/v1/datasets"


def put(hub: ApiHub, name: str, file: Path, **query: Any) -> Any:
    return hub.client().put(
        f"{BASE}/{name}/import",
        content=file.read_bytes(),
        params={"file_name": file.name, **query},
        timeout=60,
    )


@pytest.fixture
def shapes(empty_hub: ApiHub, tmp_path: Path) -> ApiHub:
    """A hub with a dataset of twenty pictures of each class."""
    answer = put(empty_hub, "shapes", zipped(write_pictures(tmp_path / "s"), tmp_path / "s.zip"))
    assert answer.status_code == 200, answer.text
    return empty_hub


def test_an_upload_becomes_a_version_with_items_to_look_at(shapes: ApiHub) -> None:
    http = shapes.client()
    (found,) = http.get(BASE).json()["datasets"]
    assert (found["name"], found["kind"], found["classes"]) == ("shapes", "image", list(CLASSES))
    assert found["newest"]["counts_by_part"] == {"train": 28, "validation": 6, "test": 6}
    assert http.get(f"{BASE}/shapes").json() == found
    path = f"{BASE}/shapes/versions/1"
    assert http.get(f"{path}/report").json()["report"]["items_count"] == 40

    page = http.get(f"{path}/items", params={"part": "test", "limit": 4}).json()
    assert (len(page["items"]), page["matching_count"]) == (4, 6)
    query = {"part": "test", "limit": 4, "after": page["next_after"]}
    rest = http.get(f"{path}/items", params=query).json()
    assert (len(rest["items"]), rest["next_after"]) == (2, None)
    circles = http.get(f"{path}/items", params={"class_name": "circle", "limit": 100}).json()
    assert {item["label"] for item in circles["items"]} == {"circle"}
    assert circles["matching_count"] == 20
    assert http.get(f"{path}/items", params={"class_name": "\x00"}).status_code == 400

    item = circles["items"][0]
    answer = http.get(f"{path}/items/{item['index']}")
    assert answer.content == picture(int(item["name"].split("/")[-1].split(".")[0]))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "immutable" in answer.headers["cache-control"]
    assert http.get(f"{path}/items/40").json()["code"] == "dataset_item.unknown"
    assert http.get(f"{BASE}/shapes/versions/2/items").status_code == 404


def test_labels_splits_and_removals_make_and_take_versions(shapes: ApiHub) -> None:
    http = shapes.client()
    item = http.get(f"{BASE}/shapes/versions/1/items").json()["items"][0]
    box = {"class_name": "oval", "left": 0.1, "top": 0.1, "right": 0.5, "bottom": 0.5}
    body = {"labels": [{"digest": item["digest"], "boxes": [box]}]}
    made = http.post(f"{BASE}/shapes/labels", json=body)
    assert (made.status_code, made.json()["version"]) == (200, 2), made.text
    shown = http.get(f"{BASE}/shapes/versions/2/items").json()["items"][0]
    assert shown["boxes"] == [box]
    split = http.post(f"{BASE}/shapes/split", json={"by": "item", "seed": 5}, timeout=60)
    assert (split.status_code, split.json()["version"]) == (200, 3), split.text
    for path, bad, field in (
        ("labels", {"labels": [{"digest": "x", "label": "a"}]}, "$.labels[0].digest"),
        ("labels", {"labels": [{"digest": item["digest"], "odd": 1}]}, "odd"),
        ("labels", {"labels": [body["labels"][0] | {"label": "a"}]}, "not both"),
        ("split", {"by": "colour"}, "$.by"),
        ("split", {"train": 0.9}, "add up to 1"),
    ):
        answer = http.post(f"{BASE}/shapes/{path}", json=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")
        assert field in answer.json()["message"]
    refused = http.post(f"{BASE}/shapes/split", json={"by": "device"}, timeout=60).json()
    assert refused["code"] == "dataset.split"
    left = http.delete(f"{BASE}/shapes/versions/2").json()["versions"]
    assert [version["version"] for version in left] == [3, 1]
    assert http.delete(f"{BASE}/shapes").json() == {"datasets": []}
    assert http.get(f"{BASE}/shapes").json()["code"] == "dataset.unknown"
    acts = [entry["action"] for entry in http.get("/api/v1/audit").json()["entries"]]
    assert {"dataset.import", "dataset.label", "dataset.split", "dataset.remove"} <= set(acts)


def test_what_is_wrong_with_an_upload_is_told(empty_hub: ApiHub, tmp_path: Path) -> None:
    http = empty_hub.client()
    file = tmp_path / "s.zip"
    file.write_bytes(b"This is no archive.")
    assert put(empty_hub, "shapes", file).json()["code"] == "dataset.archive"
    assert put(empty_hub, "Shapes!", file).status_code == 400
    odd = put(empty_hub, "shapes", file, rule='{"split_by": "colour"}')
    assert (odd.status_code, odd.json()["code"]) == (400, "request.invalid")
    assert "$.split_by" in odd.json()["message"]
    for name in ("../s.zip", "s/../../x.zip", ".zip", ""):
        answer = http.put(f"{BASE}/shapes/import", content=b"x", params={"file_name": name})
        assert answer.status_code == 400, name
    outside = http.post(f"{BASE}/shapes/import-folder", json={"path": str(tmp_path)})
    assert outside.json()["code"] == "dataset.root"
    limit = empty_hub.settings.dataset_bytes_max
    with contextlib.closing(HTTPConnection(empty_hub.url.removeprefix("http://"))) as raw:
        raw.putrequest("PUT", f"{BASE}/shapes/import?file_name=s.zip")
        raw.putheader("Authorization", f"Bearer {empty_hub.token}")
        raw.putheader("Content-Length", str(limit + 1))
        raw.endheaders()
        told = raw.getresponse()
        assert (told.status, json.loads(told.read())["code"]) == (413, "limit.body")
    assert http.get(BASE).json() == {"datasets": []}
    assert list((empty_hub.state / "datasets" / "work").iterdir()) == []


def test_a_large_upload_goes_to_the_disk_and_not_into_memory(
    empty_hub: ApiHub, tmp_path: Path
) -> None:
    file = tmp_path / "large.zip"
    with file.open("wb") as opened:
        opened.truncate(300 << 20)  # Zeros: no archive, but that is known only when it is there
    before = psutil.Process().memory_info().rss
    peaks: list[int] = []

    def pieces() -> Any:
        with file.open("rb") as opened:
            while piece := opened.read(1 << 20):
                peaks.append(psutil.Process().memory_info().rss)
                yield piece

    answer = empty_hub.client().put(
        f"{BASE}/large/import",
        params={"file_name": "large.zip"},
        content=pieces(),
        headers={"Content-Length": str(300 << 20)},
        timeout=60,
    )
    assert answer.json()["code"] == "dataset.archive", answer.text
    assert max(peaks) - before < 60 << 20


def test_the_gate_measures_on_what_was_never_trained_on(shapes: ApiHub, tmp_path: Path) -> None:
    http = shapes.client()
    path = f"{BASE}/shapes/versions/1/evaluation-set"
    unknown = http.post(path, json={"model": "shapes"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "model.unknown")
    shapes.services.releases.checkpoints.add(
        spec_bytes=SPEC.encode(), network_bytes=NETWORK.encode(), weights_bytes=None
    )
    answer = http.post(path, json={"model": "shapes"}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["items_count"], answer.json()["slices"]) == (6, {})
    sets = shapes.services.releases.evaluation_sets
    newest = sets.newest("shapes")
    assert newest is not None
    (tmp_path / "e.npz").write_bytes(sets.read(newest))
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["items"].shape == (6, 8, 8, 3)
        items = http.get(f"{BASE}/shapes/versions/1/items", params={"part": "test"}).json()
        wanted = [{"square": 0, "circle": 1}[item["label"]] for item in items["items"]]
        assert arrays["labels"].tolist() == wanted
    few = http.post(path, json={"model": "shapes", "items_max": 3}, timeout=60)
    assert few.json()["items_count"] == 3


class Terminal:
    """Runs commands as a person on the hub's own machine."""

    def __init__(self, hub: ApiHub, capsys: pytest.CaptureFixture[str]) -> None:
        self.hub = hub
        self._capsys = capsys

    def run(self, *arguments: str) -> str:
        words = [*arguments, "--hub", self.hub.url, "--state", str(self.hub.state)]
        self._capsys.readouterr()
        code = run(parse(build_parser(), words))
        captured = self._capsys.readouterr()
        assert code == 0, captured.err
        return captured.out


def test_a_person_does_all_of_it_in_a_terminal(
    empty_hub: ApiHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(empty_hub, capsys)
    assert "no dataset yet" in terminal.run("datasets", "list")
    folder = write_pictures(tmp_path / "shapes")
    said = terminal.run("datasets", "import", "shapes", str(folder))
    assert "Version 1 of shapes: 40 items added, read as folder" in said
    assert "28/6/6" in terminal.run("datasets", "show", "shapes")
    assert "shapes" in terminal.run("datasets", "list")
    options = tmp_path / "options.toml"
    options.write_text('window = 4\nvalue_columns = ["x", "y"]\n')
    table = write_windows(empty_hub.state / "import" / "shaft.csv")
    said = terminal.run(
        *("datasets", "import", "shaft", str(table), "--on-hub", "--layout", "csv"),
        *("--options", str(options), "--by", "device", "--train", "0.5"),
        *("--validation", "0.25", "--test", "0.25"),
    )
    assert "20/10/10" in said
    listed = json.loads(
        terminal.run("datasets", "items", "shapes", "--part", "test", "--limit", "2", "--json")
    )
    assert listed["matching_count"] == 6
    assert "--after" in terminal.run("datasets", "items", "shapes", "--limit", "5")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"digest,label\n{listed['items'][0]['digest']},oval\n")
    assert "1 labels by" in terminal.run("datasets", "label", "shapes", str(labels))
    assert "Version 3" in terminal.run("datasets", "split", "shapes", "--by", "item", "--seed", "4")
    assert terminal.run("datasets", "report", "shapes")
    empty_hub.services.releases.checkpoints.add(
        spec_bytes=SPEC.replace('"circle"]', '"circle", "oval"]').encode(),
        network_bytes=NETWORK.encode(),
        weights_bytes=None,
    )
    said = terminal.run("datasets", "evaluation", "shapes", "--model", "shapes")
    assert "measured on" in said
    assert "Removed" in terminal.run("datasets", "remove", "shapes", "--version", "1")
    terminal.run("datasets", "remove", "shapes", "--all")
    assert [each.name for each in empty_hub.services.datasets.list()] == ["shaft"]
