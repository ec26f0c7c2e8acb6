"""Round trips with label tools: what goes out comes back, and only what was changed changes."""

import json
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.datasets.label_tools.changes import Answer
from cloud_hub.datasets.label_tools.file_export import export_labels
from cloud_hub.datasets.label_tools.file_import import import_labels
from cloud_hub.datasets.label_tools.labelled import LabelTool
from cloud_hub.datasets.manifest import ItemKind, Manifest, Part
from cloud_hub.datasets.raw_item import RawBox, RawItem
from cloud_hub.datasets.readers.file_detect import open_source
from shared.errors import ContractError, RefusedError
from tests.support.dataset_sources import good, manifest_of, png, put

BOX_TOOLS = list(LabelTool)
CLASS_TOOLS = [LabelTool.LABEL_STUDIO, LabelTool.CVAT]
# Those that cannot tell a picture without objects from one that nobody looked at.
UNSURE_TOOLS = {LabelTool.CVAT}
CLASSES = ("car", "person <&> \"'", "Ü ber:# [x]")
PICTURES = [png(seed, width=101, height=67) for seed in range(4)]

Shares = st.floats(0.0, 1.0)


@st.composite
def boxes(draw: st.DrawFn) -> RawBox:
    left, right = sorted((draw(Shares), draw(Shares)))
    top, bottom = sorted((draw(Shares), draw(Shares)))
    right, bottom = max(right, left + 0.01), max(bottom, top + 0.01)
    if right > 1 or bottom > 1:
        left, top, right, bottom = 0.5, 0.5, 1.0, 1.0
    return RawBox(draw(st.sampled_from(CLASSES)), left, top, right, bottom)


BoxAnswers = st.none() | st.lists(boxes(), max_size=4).map(tuple)
ClassAnswers = st.none() | st.sampled_from(CLASSES)


def version(answers: list[Answer]) -> tuple[Manifest, list[bytes]]:
    """Return a version whose pictures are labelled so."""
    return manifest_of(
        (
            RawItem(
                data,
                f"day {index}/a b.png",
                label=answer if isinstance(answer, str) else None,
                boxes=answer if isinstance(answer, tuple) else None,
                part=(Part.TRAIN, Part.TEST)[index % 2],
            )
            for index, (data, answer) in enumerate(zip(PICTURES, answers, strict=True))
        ),
        classes=CLASSES,
    )


def trip(tool: LabelTool, out: list[Answer], into: list[Answer]) -> dict[int, Answer]:
    """Return what changes, by picture, where `out` is exported and read into `into`."""
    exported, data = version(out)
    held, _ = version(into)
    with tempfile.TemporaryDirectory() as folder:
        export_labels(tool, exported, lambda index: data[index], Path(folder) / "out")
        found = import_labels(tool, Path(folder) / "out", held)
    assert found.problems == ()
    indices = {item.digest: index for index, item in enumerate(held.items)}
    assert found.unchanged_count + len(found.changes) == len(held.items)
    return {indices[digest]: answer for digest, answer in found.changes.items()}


def is_close(one: Answer, other: Answer) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return one == other
    return len(one) == len(other) and all(
        a.class_name == b.class_name
        and np.allclose(
            (a.left, a.top, a.right, a.bottom), (b.left, b.top, b.right, b.bottom), atol=1e-6
        )
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("tool", BOX_TOOLS)
@given(st.lists(BoxAnswers, min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_boxes_that_nobody_touched_do_not_change(tool: LabelTool, answers: list[Answer]) -> None:
    assert trip(tool, answers, answers) == {}


@pytest.mark.slow
@pytest.mark.parametrize("tool", BOX_TOOLS)
@given(st.lists(BoxAnswers, min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_all_boxes_drawn_in_a_tool_arrive(tool: LabelTool, answers: list[Answer]) -> None:
    changes = trip(tool, answers, [None] * 4)
    expected = {
        index: answer
        for index, answer in enumerate(answers)
        if answer is not None and (answer or tool not in UNSURE_TOOLS)
    }
    assert changes.keys() == expected.keys()
    assert all(is_close(changes[index], answer) for index, answer in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("tool", CLASS_TOOLS)
@given(
    st.lists(ClassAnswers, min_size=4, max_size=4), st.lists(ClassAnswers, min_size=4, max_size=4)
)
@settings(max_examples=25, deadline=None)
def test_classes_change_where_they_differ(
    tool: LabelTool, out: list[Answer], into: list[Answer]
) -> None:
    expected = {i: new for i, (new, old) in enumerate(zip(out, into, strict=True)) if new != old}
    if tool in UNSURE_TOOLS and not any(out):
        expected = dict.fromkeys(expected)
    assert trip(tool, out, into) == expected


@pytest.mark.parametrize("tool", BOX_TOOLS)
def test_boxes_that_were_taken_away_are_gone(tool: LabelTool) -> None:
    box = RawBox("car", 0.1, 0.1, 0.5, 0.5)
    answers: list[Answer] = [(box,), (box,), (), None]
    assert trip(tool, [(), (box,), (), None], answers) == {0: ()}


@pytest.mark.parametrize("tool", BOX_TOOLS)
def test_an_export_is_a_source_of_its_own(tool: LabelTool, tmp_path: Path) -> None:
    answers: list[Answer] = [(RawBox("car", 0.25, 0.25, 0.5, 0.75),), (), None, None]
    manifest, data = version(answers)
    export_labels(tool, manifest, lambda index: data[index], tmp_path / "out")
    items = {item.data: item for item in good(open_source(tmp_path / "out"))}
    assert set(items) == set(PICTURES)
    assert is_close(items[PICTURES[0]].boxes, answers[0])


def test_what_cvat_rounds_is_no_change(tmp_path: Path) -> None:
    answers: list[Answer] = [(RawBox("car", 0.123456789, 1 / 3, 0.55555, 2 / 3),), None, None, None]
    manifest, data = version(answers)
    export_labels(LabelTool.CVAT, manifest, lambda index: data[index], tmp_path / "out")
    text = (tmp_path / "out" / "annotations.xml").read_text()
    rounded = re.sub(r'="(\d+\.\d+)"', lambda found: f'="{float(found[1]):.2f}"', text)
    assert rounded != text
    found = import_labels(LabelTool.CVAT, put(tmp_path / "back.xml", rounded), manifest)
    assert (found.changes, found.problems) == ({}, ())


def test_messages_and_windows_go_through_label_studio(tmp_path: Path) -> None:
    texts = [RawItem(b"Win now", "line 2", label="spam"), RawItem("grüezi".encode(), "line 3")]
    manifest, data = manifest_of(texts, classes=("ham", "spam"), kind=ItemKind.TEXT)
    export_labels(LabelTool.LABEL_STUDIO, manifest, lambda i: data[i], tmp_path / "texts")
    tasks = json.loads((tmp_path / "texts" / "tasks.json").read_bytes())
    assert [task["data"]["text"] for task in tasks] == ["Win now", "grüezi"]
    tasks[1]["annotations"] = [{"result": [{"type": "choices", "value": {"choices": ["ham"]}}]}]
    for task in tasks:
        del task["data"]["file"]  # The text itself tells which it is
    back = put(tmp_path / "back.json", json.dumps(tasks))
    found = import_labels(LabelTool.LABEL_STUDIO, back, manifest)
    assert dict(found.changes) == {manifest.items[1].digest: "ham"}

    samples = np.arange(6, dtype="<f4").reshape(3, 2) / 3
    windows, data = manifest_of(
        [RawItem(samples.tobytes(), "w", label="up")],
        classes=("up",),
        kind=ItemKind.WINDOW,
        window_shape=(3, 2),
    )
    target = tmp_path / "windows.zip"
    export_labels(LabelTool.LABEL_STUDIO, windows, lambda i: data[i], target)
    with zipfile.ZipFile(target) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".csv")]
        lines = archive.read(name).decode().splitlines()
        setup = archive.read("labelling.xml").decode()
        put(tmp_path / "tasks.json", archive.read("tasks.json"))
    held = np.array([line.split(",")[1:] for line in lines[1:]], "<f4")
    assert np.array_equal(held, samples)
    assert "channel_1" in setup
    assert import_labels(LabelTool.LABEL_STUDIO, tmp_path / "tasks.json", windows).changes == {}


def test_a_task_that_was_submitted_without_a_class_is_not_labelled(tmp_path: Path) -> None:
    manifest, _ = version(["car", "car", None, None])
    tasks = [
        {"data": {"image": f"day {index}/a b.png"}, "annotations": [{"result": []}]}
        for index in (0, 2)
    ]
    path = put(tmp_path / "a.json", json.dumps(tasks))
    found = import_labels(LabelTool.LABEL_STUDIO, path, manifest)
    assert dict(found.changes) == {manifest.items[0].digest: None}


def test_names_find_items_whose_digest_was_lost(tmp_path: Path) -> None:
    manifest, _ = manifest_of(
        [
            RawItem(PICTURES[0], "a/1.png"),
            RawItem(PICTURES[1], "b/1.png"),
            RawItem(PICTURES[2], "b/2.png"),
        ],
        classes=CLASSES,
    )
    choice = [{"result": [{"type": "choices", "value": {"choices": ["car"]}}]}]
    names = ("b/1.png", "1.png", "/data/upload/2.png", "9.png")
    tasks = [{"data": {"image": name}, "annotations": choice} for name in names]
    found = import_labels(
        LabelTool.LABEL_STUDIO, put(tmp_path / "a.json", json.dumps(tasks)), manifest
    )
    assert dict(found.changes) == {
        manifest.items[1].digest: "car",
        manifest.items[2].digest: "car",
    }
    assert [(problem.name, problem.reason) for problem in found.problems] == [
        ("1.png", "could be several items: their names are the same"),
        ("9.png", "is no item of this version"),
    ]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([{"type": "polygonlabels", "value": {"points": []}}], "polygonlabels"),
        ([{"type": "choices", "value": {"choices": ["car", "bus"]}}], "2 choices"),
        ([{"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 5, "height": 5,
           "rotation": 30, "rectanglelabels": ["car"]}}], "turned"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_told(tmp_path: Path, result: object, reason: str) -> None:
    manifest, _ = manifest_of([RawItem(PICTURES[0], "1.png")], classes=CLASSES)
    tasks = [{"data": {"image": "1.png"}, "annotations": [{"result": result}]}]
    path = put(tmp_path / "a.json", json.dumps(tasks))
    found = import_labels(LabelTool.LABEL_STUDIO, path, manifest)
    assert found.changes == {}
    assert reason in found.problems[0].reason


@pytest.mark.parametrize("tool", [LabelTool.COCO, LabelTool.YOLO])
def test_classes_of_whole_pictures_are_refused_where_there_is_no_place(
    tool: LabelTool, tmp_path: Path
) -> None:
    manifest, data = version(["car", None, None, None])
    with pytest.raises(RefusedError, match="classes of whole pictures") as caught:
        export_labels(tool, manifest, lambda index: data[index], tmp_path / "out")
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    manifest, _ = version([None] * 4)

    def fail(index: int) -> bytes:
        raise ContractError("x.y", "gone")

    for name in ("out", "out.zip"):
        with pytest.raises(ContractError):
            export_labels(LabelTool.CVAT, manifest, fail, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    put(tmp_path / "there" / "a", "")
    with pytest.raises(RefusedError, match="there already"):
        export_labels(LabelTool.CVAT, manifest, fail, tmp_path / "there")


def test_the_same_version_makes_the_same_zip(tmp_path: Path) -> None:
    manifest, data = version([None, (), None, None])
    for name in ("a.zip", "b.zip"):
        export_labels(LabelTool.YOLO, manifest, lambda index: data[index], tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
