"""Heads of real detectors, as read here, beside what OpenCV reads of the same files."""

from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import onnxruntime as ort
import pytest

from shared.errors import RefusedError
from shared.model.opencv_resize import FrameResizer
from shared.model.postprocess import Boxes, check_outputs, detected_boxes, overlaps
from shared.model.preprocess import to_tensor
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Resize, Task
from tests.support.requirements import require_data

LIKELY = 0.5
FAINT = 0.05  # Also what only looks like a face: many boxes to compare


def portrait() -> np.ndarray:
    """Return a picture of one face (Rear Admiral Grace Hopper, public domain), padded to square."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    pixels = np.asarray(cv2.imread(str(path)))
    height, width = pixels.shape[:2]
    return cv2.copyMakeBorder(pixels, 0, 0, 0, height - width, cv2.BORDER_CONSTANT)


def worker() -> np.ndarray:
    """Return a frame in which a worker turns their head."""
    video = cv2.VideoCapture(str(require_data("data/video/worker-zone-detection.gif")))
    frames = [video.read()[1] for _ in range(11)]
    video.release()
    return np.asarray(frames[-1])


def face_spec(decoder: Decoder, image: ImageInput, confidence_min: float) -> ModelSpec:
    output = OutputSpec(
        decoder=decoder, classes=("face",), confidence_min=confidence_min, overlap_max=0.3
    )
    return ModelSpec(model="faces", task=Task.DETECTION, input=image, output=output)


def found_in(path: Path, spec: ModelSpec, pixels: np.ndarray) -> Boxes:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert isinstance(spec.input, ImageInput)
    resized, placement = FrameResizer(spec.input).resize(pixels)
    outputs = session.run(None, {session.get_inputs()[0].name: to_tensor(resized, spec)})
    return detected_boxes(tuple(outputs), spec, placement=placement)


@pytest.mark.slow
@pytest.mark.parametrize("side", [320, 640])
@pytest.mark.parametrize("picture", [portrait, worker])
def test_yunet_is_read_as_opencv_reads_it(side: int, picture: Callable[[], np.ndarray]) -> None:
    path = require_data(f"models/yunet_n_{side}_{side}.onnx")
    pixels = cv2.resize(picture(), (side, side))
    image = ImageInput(width=side, height=side)
    ours = found_in(path, face_spec(Decoder.YUNET, image, FAINT), pixels)
    detector = cv2.FaceDetectorYN.create(str(path), "", (side, side), FAINT, 0.3, 5000)
    theirs = detector.detect(pixels)[1]
    assert theirs is not None
    assert len(ours) == len(theirs) > 0
    theirs = theirs[np.argsort(-theirs[:, -1], kind="stable")]
    wanted = np.concatenate([theirs[:, :2], theirs[:, :2] + theirs[:, 2:4]], axis=1)
    np.testing.assert_allclose(ours.corners * side, np.clip(wanted, 0, side), atol=1.0)
    np.testing.assert_allclose(ours.scores, theirs[:, -1], atol=1e-3)


def test_two_detectors_find_the_same_one_face() -> None:
    pixels = portrait()
    ours = found_in(
        require_data("models/yunet_n_320_320.onnx"),
        face_spec(Decoder.YUNET, ImageInput(width=320, height=320), LIKELY),
        pixels,
    )
    other = ImageInput(
        width=320,
        height=240,
        colour=Colour.RGB,
        resize=Resize.LETTERBOX,
        mean=(127.0,),
        scale=(128.0,),
    )
    theirs = found_in(
        require_data("models/version-RFB-320.onnx"),
        face_spec(Decoder.SSD_CORNERS, other, LIKELY),
        pixels,
    )
    assert len(ours) == len(theirs) == 1
    assert overlaps(ours.corners, theirs.corners)[0, 0] > 0.6


def test_a_yunet_of_another_size_is_refused_with_its_shapes() -> None:
    spec = face_spec(Decoder.YUNET, ImageInput(width=640, height=320), LIKELY)
    outputs = tuple(
        np.zeros((1, cells, depth), np.float32)
        for depth in (1, 1, 4, 10)
        for cells in (1600, 400, 100)
    )
    with pytest.raises(RefusedError, match=r"\(1, 3200, 1\).* for 640x320 and strides 8, 16, 32"):
        check_outputs(outputs, spec)
