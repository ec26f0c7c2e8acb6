"""What ultralytics writes into its files (task, imgsz, names), as a draft of a spec. Pure.

1. The words are Python literals. They are read as literals, nothing is evaluated; what is too long
   or odd counts as not said, and is marked as guessed.
2. Pictures are brought to the model as `yolo predict` does it: letterbox, red-green-blue, 0 to 1.
3. The head is read off the output's shape. Tasks that have no head here are refused by their name.
"""

import ast

from edge_agent.command_line.spec_draft import Draft, Table, numbered, refused, sides
from edge_agent.inference.onnx_facts import ModelFacts
from shared.model.spec import CLASSES_MAX

LITERAL_CHARS_MAX = 1_000_000
NAME_CHARS_MAX = 64
AUTHOR = "Ultralytics"


def is_of_ultralytics(facts: ModelFacts) -> bool:
    """Return whether its exporter wrote the file."""
    return facts.metadata.get("author") == AUTHOR


def from_ultralytics(draft: Draft, facts: ModelFacts) -> None:
    """Fill the draft in. Raises RefusedError `spec.no_draft`."""
    said = facts.metadata
    task, names = said.get("task", ""), _names(said.get("names", ""))
    if task not in ("detect", "classify"):
        raise refused(f"its task is {task or 'not said'}: detect and classify are taken", facts)
    height, width = _pair(said.get("imgsz", "")) or sides(facts.inputs[0].shape[2:], draft)
    draft.input = {"kind": "image", "width": width, "height": height, "colour": "rgb"}
    draft.input |= {"resize": "letterbox", "mean": (0.0,), "scale": (255.0,)}
    if task == "classify":
        draft.task, draft.output = "classification", {"decoder": "probabilities"}
        draft.input["resize"] = "stretch"
        draft.guess("input.resize", "ultralytics crops the middle; here the picture is stretched")
    else:
        draft.task, draft.output = "detection", _ultralytics_head(facts, len(names))
    draft.output["classes"] = names or numbered(_classes_of_head(draft, facts))
    if not names:
        draft.guess("output.classes", "names, in the order of training")


def _ultralytics_head(facts: ModelFacts, classes: int) -> Table:
    shape = facts.outputs[0].shape
    limits: Table = {"confidence_min": 0.35, "overlap_max": 0.45}
    if len(shape) == 3 and shape[2] == 6:
        return {"decoder": "boxes", **limits}
    if len(shape) == 3 and classes and shape[2] == 5 + classes:
        return {"decoder": "yolo", **limits}
    if len(shape) == 3 and isinstance(shape[1], int) and (not classes or shape[1] == 4 + classes):
        return {"decoder": "yolov8", **limits}
    raise refused("its output is none of YOLO's", facts)


def _classes_of_head(draft: Draft, facts: ModelFacts) -> int:
    shape = facts.outputs[0].shape
    sizes = {"yolov8": (1, 4), "yolo": (2, 5), "probabilities": (1, 0)}
    axis, besides = sizes.get(str(draft.output["decoder"]), (0, 0))
    size = shape[axis] if axis < len(shape) else None
    return size - besides if isinstance(size, int) and size > besides else 1


def _names(text: str) -> tuple[str, ...]:
    """Return class names in the order of their numbers, of "{0: 'person', 1: 'car'}"."""
    said = _literal_in(text)
    pairs = dict(enumerate(said)) if isinstance(said, list) else said
    if not isinstance(pairs, dict) or not 0 < len(pairs) <= CLASSES_MAX:
        return ()
    if sorted(pairs, key=str) != sorted(range(len(pairs)), key=str):
        return ()
    return tuple(
        str(pairs[index])[:NAME_CHARS_MAX] or f"class {index}" for index in range(len(pairs))
    )


def _pair(text: str) -> tuple[int, int] | None:
    """Return the sides in "[640, 640]"."""
    match _literal_in(text):
        case [int() as first, int() as second] if first > 0 and second > 0:
            return first, second
    return None


def _literal_in(text: str) -> object:
    """Return the Python literal in `text`, None if it is none; see rule 1."""
    if len(text) > LITERAL_CHARS_MAX:
        return None
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found
