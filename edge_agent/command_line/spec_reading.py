"""draft_spec: what an ONNX file says of itself, as a draft of its spec. Pure.

1. What ultralytics writes into its files is taken at its word (spec_ultralytics.py).
2. All else is read off the shapes: which inputs and heads they fit (shared/model/README.md). Shapes
   do not say how pixels are scaled, which class is which, or whether scores lack their softmax:
   such a key is marked as guessed.
3. What no head fits is refused, with what was seen.
"""

import math
import re

from edge_agent.command_line.spec_draft import Draft, numbered, refused, sides
from edge_agent.command_line.spec_ultralytics import from_ultralytics, is_of_ultralytics
from edge_agent.inference.engine import Node
from edge_agent.inference.onnx_facts import ModelFacts
from shared.model.spec import CLASSES_MAX, USUAL_STRIDES

LENGTH_USUAL = 128  # Tokens of a text, samples of a window, where the file leaves them open
NANODET_BINS = 4 * 8  # Four sides as distributions over 0 to 7, the usual reg_max
NAME_CHARS_MAX = 63
YUNET_OUTPUTS = 12
GRIDS_OF_PLUS = (8, 16, 32, 64)  # NanoDet-Plus
FASTESTDET_STRIDE = 16


def draft_spec(facts: ModelFacts, name: str) -> Draft:
    """Return a draft for the model called `name`.

    Raises RefusedError `spec.no_draft` if nothing here fits the file.
    """
    draft = Draft(
        model=re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:NAME_CHARS_MAX] or "model"
    )
    if len(facts.inputs) != 1:
        raise refused(f"it has {len(facts.inputs)} inputs, where one is taken", facts)
    if is_of_ultralytics(facts):
        from_ultralytics(draft, facts)
    else:
        _from_input(draft, facts)
        _from_outputs(draft, facts)
    return draft


def _from_input(draft: Draft, facts: ModelFacts) -> None:
    node = facts.inputs[0]
    shape = node.shape
    if node.dtype == "int64" and len(shape) == 2:
        length = shape[1] if isinstance(shape[1], int) else LENGTH_USUAL
        draft.input = {"kind": "text", "length": length, "tokenizer": "bytes"}
        draft.guess("input.tokenizer", 'or "tokenizer-json", with the file beside the model')
        if length != shape[1]:
            draft.guess("input.length", "the file leaves it open")
    elif len(shape) == 4 and (1 in (shape[1], shape[3]) or 3 in (shape[1], shape[3])):
        _from_image(draft, shape)
    elif len(shape) == 3:
        channels, samples = sides(shape[1:], draft, usual=LENGTH_USUAL)
        draft.input = {"kind": "window", "samples": samples, "channels": channels}
        if channels > samples:
            draft.input = {"kind": "window", "samples": channels, "channels": samples}
            draft.input["layout"] = "channels-last"
        draft.input |= {"mean": (0.0,), "scale": (1.0,)}
        draft.guess("input.scale", "as in training, one number or one a channel")
    else:
        raise refused("its input is no picture, window or text", facts)


def _from_image(draft: Draft, shape: tuple[int | str | None, ...]) -> None:
    is_last = shape[1] not in (1, 3)
    channels = shape[3] if is_last else shape[1]
    height, width = sides(shape[1:3] if is_last else shape[2:], draft)
    draft.input = {"kind": "image", "width": width, "height": height}
    draft.input["colour"] = "gray" if channels == 1 else "rgb"
    draft.input["resize"] = "stretch"
    if is_last:
        draft.input["layout"] = "channels-last"
    draft.input |= {"mean": (0.0,), "scale": (255.0,)}
    if channels == 3:
        draft.guess("input.colour", 'or "bgr"')
    draft.guess("input.resize", 'or "letterbox"')
    draft.guess("input.scale", "(value - mean) / scale, as in training")


def _from_outputs(draft: Draft, facts: ModelFacts) -> None:
    outputs, kind = facts.outputs, draft.input["kind"]
    is_done = (kind == "image" and _is_detector(draft, outputs)) or (
        len(outputs) == 1 and _is_other(draft, facts)
    )
    if not is_done:
        raise refused("its outputs fit no head", facts)


def _is_detector(draft: Draft, outputs: tuple[Node, ...]) -> bool:
    """Fill the draft in if the outputs are a detector's."""
    width, height = int(str(draft.input["width"])), int(str(draft.input["height"]))
    shapes = [output.shape for output in outputs]
    last = shapes[0][-1]
    classes: int | None = None
    if len(shapes) == YUNET_OUTPUTS and all(len(shape) == 3 for shape in shapes):
        decoder, classes = "yunet", 1
        draft.input |= {"colour": "bgr", "scale": (1.0,)}  # As it is published
        for key in ("input.colour", "input.scale"):
            draft.guessed.pop(key, None)
    elif len(shapes) == 2 and all(len(shape) == 3 for shape in shapes) and shapes[1][2] == 4:
        decoder, classes = "ssd-corners", _less(last, 1)
    elif len(shapes) == 1 and len(shapes[0]) == 4 and _is_grid(shapes[0], width, height):
        decoder, classes = "fastestdet", _less(shapes[0][1], 5)
    elif len(shapes) == 1 and len(shapes[0]) == 3:
        decoder, classes = _is_row_head(draft, shapes[0], width, height)
    if not classes:
        return False
    draft.task = "detection"
    draft.output = {"decoder": decoder, **draft.output}
    draft.output |= {"confidence_min": 0.35, "overlap_max": 0.45, "classes": numbered(classes)}
    draft.guess("output.decoder")
    draft.guess("output.classes", "names, in the order of training")
    return True


def _is_row_head(
    draft: Draft, shape: tuple[int | str | None, ...], width: int, height: int
) -> tuple[str, int | None]:
    """Return decoder and classes of one output (1, rows, columns)."""
    _, rows, columns = shape
    if columns == 6:
        return "boxes", 1
    if isinstance(rows, int) and isinstance(columns, int) and rows < columns:
        return "yolov8", _less(rows, 4)
    if rows == _cells(GRIDS_OF_PLUS, width, height) and (_less(columns, NANODET_BINS) or 0) > 0:
        draft.output["strides"] = GRIDS_OF_PLUS
        return "nanodet", _less(columns, NANODET_BINS)
    is_relative = rows == _cells(USUAL_STRIDES, width, height)
    return ("yolox" if is_relative else "yolo"), _less(columns, 5)


def _is_other(draft: Draft, facts: ModelFacts) -> bool:
    """Fill the draft in if the only output is that of a task that is no detection."""
    given, taken = facts.outputs[0].shape, facts.inputs[0].shape
    sizes = [size for size in given[1:] if isinstance(size, int)]
    count = math.prod(sizes) if 0 < len(sizes) == len(given) - 1 else 0
    if len(given) == len(taken) and len(given) > 2 and given[1:] == taken[1:]:
        draft.task, draft.output = "anomaly", {"decoder": "reconstruction", "threshold": 1.0}
        draft.guess("output.threshold", "a score above it is anomalous")
    elif count == 1:
        draft.task, draft.output = "regression", {"decoder": "values"}
        draft.guess("task", 'or "anomaly" with decoder = "score"')
    elif len(given) == 2 and 1 < count <= CLASSES_MAX:
        draft.task, draft.output = "classification", {"decoder": "logits"}
        draft.output["classes"] = numbered(count)
        draft.guess("output.decoder", 'or "probabilities", with a softmax in the graph')
        draft.guess("output.classes", "names, in the order of training")
    elif len(given) == 4 and draft.input["kind"] == "image" and isinstance(given[1], int):
        draft.task, draft.output = "segmentation", {"decoder": "mask"}
        draft.output["classes"] = numbered(max(2, given[1]))
        draft.guess("output.classes", "names, in the order of training")
    return bool(draft.task)


def _is_grid(shape: tuple[int | str | None, ...], width: int, height: int) -> bool:
    """Return whether a map (1, C, rows, columns) is of cells, and no mask of pixels."""
    rows, columns = shape[2:]
    return (
        isinstance(rows, int)
        and isinstance(columns, int)
        and (rows * FASTESTDET_STRIDE == height and columns * FASTESTDET_STRIDE == width)
    )


def _cells(strides: tuple[int, ...], width: int, height: int) -> int:
    return sum(math.ceil(width / stride) * math.ceil(height / stride) for stride in strides)


def _less(size: int | str | None, besides: int) -> int | None:
    return size - besides if isinstance(size, int) and size > besides else None
