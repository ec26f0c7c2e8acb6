"""Boxes of a YOLO11 head beside ultralytics' own post-processing, one by one.

    make bench-heads

1. Both get the same outputs: those of a YOLO11n that ultralytics built and exported (random
   weights: the threshold is set so that CANDIDATES boxes pass), on frames of a video; and drawn
   ones, many boxes around few objects, within the picture or reaching over its edges.
2. Ultralytics' `non_max_suppression` runs in its own venv, class-wise, with our limits of boxes and
   candidates, on float64: on float32 the offsets by which it keeps classes apart cost digits.
3. Boxes are paired by their order, best first, and compared in pixels after cutting at the edges.
   A set differs if the counts or the classes do, or a box is over CORNERS_PX_MAX away.
4. Ultralytics cuts boxes at the edges after suppression, as is done here.

Prints one JSON line: for each kind of outputs how many boxes both found, how many sets differ, and
the largest difference of corners and scores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.model.opencv_resize import FrameResizer
from shared.model.postprocess import CANDIDATES_MAX, detected_boxes
from shared.model.preprocess import place, to_tensor
from shared.model.spec import ImageInput, ModelSpec
from shared.wire.records import BOXES_MAX
from tests.benchmarks.bench_peers import IMPORTABLE, ROOT, yolo_spec
from tests.support.requirements import require_data

SIDE = 320
SETS = 12  # Of each kind
EVERY_FRAMES = 15
CANDIDATES = 400
OBJECTS, BOXES, CLASSES = 25, 700, 80
CONFIDENCE_MIN, OVERLAP_MAX = 0.30, 0.45
CORNERS_PX_MAX, SCORES_MAX = 0.01, 1e-6

# As ultralytics draws its weights every frame comes out alike, with three scores in all.
EXPORT = (
    IMPORTABLE
    + """
from ultralytics import YOLO
torch.manual_seed(0)
model = YOLO("yolo11n.yaml", task="detect")
for layer in model.model.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
        layer.momentum = 1.0  # Normalise by what comes of the blots below
with torch.no_grad():
    for parameter in model.model.model[-1].parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    side = int(sys.argv[1])
    blots = torch.nn.functional.interpolate(torch.rand(8, 3, 9, 9), size=(side, side))
    model.model.train()(blots)
model.model.eval()
model.export(format="onnx", imgsz=int(sys.argv[1]), simplify=False)
"""
)
THEIRS = """
import sys
import numpy as np, torch
from ultralytics.utils.nms import non_max_suppression
torch.set_num_threads(1)
path, into, overlap, boxes_max, candidates_max = sys.argv[1:6]
given = np.load(path)
found = {}
for name in given.files:
    if name.endswith(":at"):
        continue
    (rows,) = non_max_suppression(
        torch.from_numpy(given[name]).double(), float(given[name + ":at"]), float(overlap),
        max_det=int(boxes_max), max_nms=int(candidates_max), max_time_img=60.0)
    found[name] = rows.numpy()
np.savez(into, **found)
"""

Floats = NDArray[np.float32]
Sets = dict[str, tuple[Floats, float]]  # Outputs (1, 4 + classes, n), and the least score


def exported(peer: str, folder: Path) -> ort.InferenceSession:
    """Return a YOLO11n with random weights, exported by ultralytics."""
    run([peer, "-c", EXPORT, str(SIDE)], folder)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(folder / "yolo11n.onnx"), options)


def of_frames(session: ort.InferenceSession, spec: ModelSpec) -> Sets:
    """Return what the network puts out on frames of a video."""
    assert isinstance(spec.input, ImageInput)
    resizer, random, sets = FrameResizer(spec.input), np.random.default_rng(0), {}
    video = cv2.VideoCapture(str(require_data("data/video/bottle-detection.mp4")))
    for index in range(SETS * EVERY_FRAMES):
        is_there, pixels = video.read()
        if is_there and index % EVERY_FRAMES == 0:
            resized, _ = resizer.resize(np.asarray(pixels))
            (output,) = session.run(None, {session.get_inputs()[0].name: to_tensor(resized, spec)})
            # Which of two equals stays is nobody's rule: no score shall be another's equal.
            output = np.array(output)
            output[:, 4:] *= random.uniform(0.9, 1.1, output[:, 4:].shape).astype(np.float32)
            best = np.sort(output[0, 4:].max(axis=0))
            sets[f"yolo11n {index}"] = (output, float(best[-CANDIDATES]))
    video.release()
    return sets


def drawn(name: str, *, centre_min: float, centre_max: float) -> Sets:
    """Return boxes around few objects, with classes that are mostly the object's."""
    sets = {}
    for index in range(SETS):
        random = np.random.default_rng(index)
        centres = random.uniform(centre_min, centre_max, (OBJECTS, 2)) * SIDE
        sizes = random.uniform(0.05, 0.25, (OBJECTS, 2)) * SIDE
        which = random.integers(0, OBJECTS, BOXES)
        output = np.zeros((1, 4 + CLASSES, BOXES), np.float32)
        output[0, :2] = (centres[which] + random.normal(0, 4, (BOXES, 2))).T
        output[0, 2:4] = (sizes[which] * random.uniform(0.7, 1.4, (BOXES, 2))).T
        output[0, 4:] = random.uniform(0, 0.2, (CLASSES, BOXES))
        classes = (which + (random.random(BOXES) < 0.2)) % CLASSES  # A fifth is taken for another
        output[0, 4 + classes, np.arange(BOXES)] = random.uniform(0.1, 0.99, BOXES)
        sets[f"{name} {index}"] = (output, CONFIDENCE_MIN)
    return sets


def theirs(peer: str, sets: Sets, folder: Path) -> dict[str, NDArray[np.float64]]:
    """Return (n, 6) corners in pixels, scores, classes of each set, by ultralytics."""
    given, into = folder / "given.npz", folder / "found.npz"
    arrays = {name: output for name, (output, _) in sets.items()}
    arrays |= {f"{name}:at": np.array(least) for name, (_, least) in sets.items()}
    np.savez(given, **arrays)  # type: ignore[arg-type]  # Its stub takes names for options
    limits = [str(OVERLAP_MAX), str(BOXES_MAX), str(CANDIDATES_MAX)]
    run([peer, "-c", THEIRS, str(given), str(into), *limits], folder)
    with np.load(into) as found:
        return {name: found[name] for name in found.files}


def ours(output: Floats, spec: ModelSpec, least: float) -> NDArray[np.float64]:
    """Return (n, 6) corners in pixels, scores, classes of one set, by this project."""
    assert isinstance(spec.input, ImageInput)
    above = float(np.nextafter(np.float32(least), np.float32(2.0)))  # They ask for more than it
    whole = place(SIDE, SIDE, spec.input)
    boxes = detected_boxes(
        (output,), spec, placement=whole, confidence_min=above, overlap_max=OVERLAP_MAX
    )
    parts = (boxes.corners * SIDE, boxes.scores[:, None], boxes.classes[:, None])
    return np.concatenate(parts, axis=1, dtype=np.float64)


def compared(
    sets: Sets, spec: ModelSpec, found: dict[str, NDArray[np.float64]]
) -> dict[str, float]:
    """Return how far both are apart over all sets of one kind."""
    counts, differing, corners_px, scores = [0, 0], 0, 0.0, 0.0
    for name, (output, least) in sets.items():
        mine, other = ours(output, spec, least), found[name].copy()
        other[:, :4] = other[:, :4].clip(0, SIDE)
        counts = [counts[0] + len(mine), counts[1] + len(other)]
        if len(mine) != len(other) or (mine[:, 5] != other[:, 5]).any():
            differing += 1
            continue
        apart_px = float(np.abs(mine[:, :4] - other[:, :4]).max(initial=0.0))
        differing += apart_px > CORNERS_PX_MAX
        corners_px = max(corners_px, apart_px)
        scores = max(scores, float(np.abs(mine[:, 4] - other[:, 4]).max(initial=0.0)))
    return {
        "sets": len(sets),
        "boxes_ours": counts[0],
        "boxes_theirs": counts[1],
        "sets_that_differ": differing,
        "corners_px_max": round(corners_px, 6),
        "scores_max": scores,
    }


def run(command: list[str], folder: Path) -> None:
    """Run a part in the peer's venv. Raises AssertionError with what it said."""
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "False"}
    environment |= {"YOLO_CONFIG_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, cwd=folder,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def main(peer: str) -> dict[str, object]:
    """Return the figures of every kind of outputs."""
    spec = yolo_spec(SIDE)
    output = msgspec.structs.replace(spec.output, overlap_max=OVERLAP_MAX)
    spec = msgspec.structs.replace(spec, output=output)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {
            "yolo11n": of_frames(exported(peer, folder), spec),
            "crowd": drawn("crowd", centre_min=0.2, centre_max=0.8),
            "edges": drawn("edges", centre_min=0.0, centre_max=1.0),
        }
        every = {name: one for sets in kinds.values() for name, one in sets.items()}
        found = theirs(peer, every, folder)
    figures: dict[str, object] = {"bench": "heads", "overlap_max": OVERLAP_MAX}
    figures |= {kind: compared(sets, spec, found) for kind, sets in kinds.items()}
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="of a venv that has ultralytics")
    figures = main(str(Path(parser.parse_args().peer_python).absolute()))
    print(json.dumps(figures))
    kinds = [kind for kind in figures.values() if isinstance(kind, dict)]
    is_same = all(
        not kind["sets_that_differ"] and kind["scores_max"] <= SCORES_MAX for kind in kinds
    )
    sys.exit(0 if is_same else 1)
