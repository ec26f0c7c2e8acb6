"""A spec drafted from a file's own words and shapes: what is said, guessed and refused."""

import pytest

from edge_agent.command_line.spec_draft import Draft, check, to_toml
from edge_agent.command_line.spec_reading import draft_spec
from edge_agent.inference.engine import Node
from edge_agent.inference.onnx_facts import ModelFacts
from shared.errors import RefusedError
from shared.model.spec import Colour, Decoder, ImageInput, Resize, Task, TextInput, WindowInput

Shape = tuple[int | str | None, ...]
PICTURE: Shape = (1, 3, 320, 320)
SAID = {
    "author": "Ultralytics",
    "task": "detect",
    "imgsz": "[320, 320]",
    "names": "{0: 'fork lift', 1: 'person \"on foot\"'}",
}


def drafted(
    taken: Shape, *given: Shape, dtype: str = "float32", said: dict[str, str] | None = None
) -> Draft:
    outputs = tuple(Node(f"out{index}", "float32", shape) for index, shape in enumerate(given))
    return draft_spec(ModelFacts((Node("in", dtype, taken),), outputs, said or {}), "My Model.v2")


def test_what_ultralytics_says_is_taken_at_its_word() -> None:
    draft = drafted(PICTURE, (1, 6, 2100), said=SAID)
    spec = check(draft)
    assert (spec.model, spec.task) == ("my-model-v2", Task.DETECTION)
    assert spec.output.decoder is Decoder.YOLO_V8
    assert spec.output.classes == ("fork lift", 'person "on foot"')
    assert isinstance(spec.input, ImageInput)
    assert (spec.input.width, spec.input.colour, spec.input.resize, spec.input.scale) == (
        320,
        Colour.RGB,
        Resize.LETTERBOX,
        (255.0,),
    )
    assert not draft.guessed


@pytest.mark.parametrize(
    ("shape", "decoder"),
    [((1, 300, 6), Decoder.BOXES), ((1, 6300, 7), Decoder.YOLO), ((1, 6, "n"), Decoder.YOLO_V8)],
)
def test_the_head_of_a_yolo_is_read_off_its_output(shape: Shape, decoder: Decoder) -> None:
    assert check(drafted(PICTURE, shape, said=SAID)).output.decoder is decoder


@pytest.mark.parametrize(
    "names",
    ["", "{0: 'a'", "{0: 'a', 2: 'b'}", "__import__('os').abort()", "[" * 100_000, "{}", "7"],
)
def test_names_that_are_none_are_numbered_and_marked(names: str) -> None:
    draft = drafted(PICTURE, (1, 9, 2100), said={**SAID, "names": names})
    assert check(draft).output.classes == tuple(f"class {index}" for index in range(5))
    assert "output.classes" in draft.guessed


def test_a_classifier_of_ultralytics_is_one() -> None:
    draft = drafted(PICTURE, (1, 2), said={**SAID, "task": "classify"})
    spec = check(draft)
    assert (spec.task, spec.output.decoder) == (Task.CLASSIFICATION, Decoder.PROBABILITIES)
    assert set(draft.guessed) == {"input.resize"}


@pytest.mark.parametrize("task", ["pose", "obb", "segment", ""])
def test_what_this_runtime_has_no_head_for_is_refused_by_its_name(task: str) -> None:
    with pytest.raises(RefusedError) as caught:
        drafted(PICTURE, (1, 56, 2100), said={**SAID, "task": task})
    assert caught.value.code == "spec.no_draft"
    assert (task or "not said") in caught.value.message


@pytest.mark.parametrize(
    ("given", "task", "decoder", "classes"),
    [
        ([(1, 85, 20, 20)], Task.DETECTION, Decoder.FASTESTDET, 80),
        ([(1, 4420, 3), (1, 4420, 4)], Task.DETECTION, Decoder.SSD_CORNERS, 2),
        ([(1, 2100, 85)], Task.DETECTION, Decoder.YOLOX, 80),
        ([(1, 6300, 85)], Task.DETECTION, Decoder.YOLO, 80),
        ([(1, 84, 2100)], Task.DETECTION, Decoder.YOLO_V8, 80),
        ([(1, 2125, 112)], Task.DETECTION, Decoder.NANODET, 80),
        ([(1, 100, 6)], Task.DETECTION, Decoder.BOXES, 1),
        ([(1, 5, 160, 160)], Task.SEGMENTATION, Decoder.MASK, 5),
        ([(1, 1000)], Task.CLASSIFICATION, Decoder.LOGITS, 1000),
        ([(1, 1)], Task.REGRESSION, Decoder.VALUES, 0),
        ([(1, 3, 320, 320)], Task.ANOMALY, Decoder.RECONSTRUCTION, 0),
    ],
)
def test_shapes_say_which_head_it_is(
    given: list[Shape], task: Task, decoder: Decoder, classes: int
) -> None:
    draft = drafted(PICTURE, *given)
    spec = check(draft)
    assert (spec.task, spec.output.decoder, len(spec.output.classes)) == (task, decoder, classes)
    assert "input.scale" in draft.guessed, "shapes do not say it"


def test_windows_and_texts_are_told_from_pictures() -> None:
    window = check(drafted((1, 3, 256), (1, 4)))
    assert window.input == WindowInput(samples=256, channels=3)
    rows = check(drafted((1, 256, 3), (1, 256, 3)))
    assert rows.input_shape == (1, 256, 3)
    assert rows.output.decoder is Decoder.RECONSTRUCTION
    text = check(drafted((1, 64), (1, 5), dtype="int64"))
    assert text.input == TextInput(length=64)


def test_sides_that_the_file_leaves_open_are_guessed() -> None:
    draft = drafted((1, 3, "h", "w"), (1, 10))
    assert {"input.width", "input.height"} <= set(draft.guessed)
    assert check(draft).input_shape == (1, 3, 640, 640)


def test_a_guess_is_marked_in_its_own_line() -> None:
    lines = to_toml(drafted(PICTURE, (1, 10))).splitlines()
    marked = [line for line in lines if "# guessed: check" in line]
    assert [line.split(" =")[0] for line in marked] == [
        "colour",
        "resize",
        "scale",
        "decoder",
        "classes",
    ]


@pytest.mark.parametrize("given", [[(1, 3, 7, 9, 2)], [(1, 2), (1, 3), (1, 4)], [("n",)]])
def test_outputs_that_fit_no_head_are_refused_with_what_was_seen(given: list[Shape]) -> None:
    with pytest.raises(RefusedError, match="out0"):
        drafted(PICTURE, *given)


def test_two_inputs_are_refused() -> None:
    nodes = (Node("a", "float32", PICTURE), Node("b", "float32", (1, 2)))
    with pytest.raises(RefusedError, match="2 inputs"):
        draft_spec(ModelFacts(nodes, (Node("out", "float32", (1, 2)),), {}), "m")
