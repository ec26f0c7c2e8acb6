"""Finds samples and labels in bytes, in whatever usual form somebody may have sent them."""

import base64
import json
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.preprocess import to_tensor
from shared.model.spec import ModelSpec

LABELS_RUN = 24  # So many labels in their order are nobody's accident

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class SampleDetector:
    """Knows every sample of a device and its labels."""

    def __init__(self, images: Images, labels: Labels, spec: ModelSpec) -> None:
        """Args: images: (n, H, W), gray. labels: (n,), in the order of the owner's file."""
        self._needles = list(_samples(images, spec)) + list(_labels(labels))

    @property
    def needles_count(self) -> int:
        return len(self._needles)

    def find(self, streams: Sequence[bytes]) -> set[str]:
        """Return what is in the streams: "sample 3 as png", "labels 24.. as int64"."""
        return {name for name, needle in self._needles for stream in streams if needle in stream}


def _samples(images: Images, spec: ModelSpec) -> Iterator[tuple[str, bytes]]:
    for index, gray in enumerate(images):
        frame = np.repeat(gray[..., None], 3, axis=2)  # (H, W, 3)
        is_png, png = cv2.imencode(".png", gray)
        is_jpeg, jpeg = cv2.imencode(".jpg", gray)
        assert is_png
        assert is_jpeg
        forms = {
            "uint8": gray.tobytes(),
            "uint8 in colour": frame.tobytes(),
            "float32": gray.astype(np.float32).tobytes(),
            "float64": gray.astype(np.float64).tobytes(),
            "float32 in 0..1": (gray.astype(np.float32) / np.float32(255)).tobytes(),
            "float64 in 0..1": (gray / 255.0).tobytes(),
            "tensor": np.asarray(to_tensor(frame, spec)).tobytes(),
            "tensor in float16": np.asarray(to_tensor(frame, spec)).astype(np.float16).tobytes(),
            # Without the signature and header, which are every picture's.
            "png": png.tobytes()[33:-12],
            "jpeg": jpeg.tobytes()[-40:],
            "hex": gray.tobytes().hex().encode(),
            "json": json.dumps(gray.reshape(-1).tolist(), separators=(",", ":"))[1:-1].encode(),
            "spaced json": json.dumps(gray.reshape(-1).tolist())[1:-1].encode(),
        }
        # Wherever in a longer text it begins: of every three places one has its bytes whole.
        raw = gray.tobytes()
        for skipped in range(3):
            part = raw[skipped : skipped + (len(raw) - skipped) // 3 * 3]
            forms[f"base64 ({skipped})"] = base64.b64encode(part)
        for form, needle in forms.items():
            yield f"sample {index} as {form}", needle


def _labels(labels: Labels) -> Iterator[tuple[str, bytes]]:
    for start in range(len(labels) - LABELS_RUN + 1):
        run = labels[start : start + LABELS_RUN]
        forms = {dtype: run.astype(dtype).tobytes() for dtype in ("int64", "int32", "uint8")}
        forms |= {dtype: run.astype(dtype).tobytes() for dtype in ("float32", "int16")}
        forms["json"] = json.dumps(run.tolist(), separators=(",", ":"))[1:-1].encode()
        forms["spaced json"] = json.dumps(run.tolist())[1:-1].encode()
        for form, needle in forms.items():
            yield f"labels {start}.. as {form}", needle
