"""Makes an int8 detector from a real one, in a process of its own.

`python -m tests.support.detector_int8 in.onnx video.mp4 out.onnx`: opset 13 (per-channel scales
need it), static QDQ, unsigned activations and signed weights, calibrated on every twelfth frame.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

SIDE = 352
FRAMES_STEP = 12


class Frames(CalibrationDataReader):
    """Every twelfth frame of a video, as FastestDet takes it."""

    def __init__(self, video: Path, input_name: str) -> None:
        self._batches = _batches(video, input_name)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _batches(video: Path, input_name: str) -> Iterator[dict[str, np.ndarray]]:
    capture, index = cv2.VideoCapture(str(video)), 0
    while True:
        is_decoded, pixels = capture.read()
        if not is_decoded:
            return
        if index % FRAMES_STEP == 0:
            planes = cv2.resize(pixels, (SIDE, SIDE)).transpose(2, 0, 1)  # (3, H, W)
            yield {input_name: (planes[None] / 255.0).astype(np.float32)}
        index += 1


def quantize(model: Path, video: Path, out: Path) -> None:
    loaded = version_converter.convert_version(onnx.load(model), 13)
    with tempfile.TemporaryDirectory() as folder:
        raised, prepared = Path(folder) / "raised.onnx", Path(folder) / "prepared.onnx"
        onnx.save(loaded, raised)
        quant_pre_process(str(raised), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            Frames(video, loaded.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


if __name__ == "__main__":
    quantize(*(Path(argument) for argument in sys.argv[1:4]))
