"""Snapshot: a frame with what was concluded drawn on it, as a PNG. For people only."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import RefusedError
from shared.wire.records import Box, Classified, Detected, Outcome, Scored

COLOURS_BGR = (
    (66, 133, 244),
    (80, 176, 60),
    (222, 120, 40),
    (170, 60, 190),
    (40, 180, 220),
    (190, 170, 30),
)
WHITE_BGR = (255, 255, 255)
DARK_BGR = (40, 40, 40)
TEXT_SCALE_PER_PIXEL = 1 / 900  # Of the frame's height
SIDE_MIN = 320  # A smaller frame is enlarged, so that the words can be read


def draw_outcome(pixels: NDArray[np.uint8], outcome: Outcome) -> NDArray[np.uint8]:
    """Return a copy of (H, W, 3) BGR pixels with boxes, the class, or the score drawn on it."""
    factor = max(1, -(-SIDE_MIN // min(pixels.shape[:2])))  # Rounded up
    picture = pixels.copy()
    if factor > 1:
        picture = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    match outcome:
        case Detected(boxes=boxes):
            for box in reversed(boxes):  # The best on top
                _draw_box(picture, box)
        case Classified(label=label, confidence=confidence):
            _draw_text(picture, f"{label} {confidence:.2f}", at=(0, 0), colour=DARK_BGR)
        case Scored() as scored:
            word = "anomalous" if scored.is_anomalous else "normal"
            _draw_text(picture, f"{word} {scored.score:.3g}", at=(0, 0), colour=DARK_BGR)
    return picture


def write_snapshot(path: Path, pixels: NDArray[np.uint8], outcome: Outcome) -> None:
    """Write a frame with its outcome drawn on it. Raises RefusedError `snapshot.unwritable`."""
    is_encoded, data = cv2.imencode(".png", draw_outcome(pixels, outcome))
    assert is_encoded, "PNG takes any uint8 picture"
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise RefusedError(
            "snapshot.unwritable",
            f"Cannot write {path}: {error.strerror}.",
            remedy="Name a file in a folder that exists.",
        ) from error


def _draw_box(picture: NDArray[np.uint8], box: Box) -> None:
    height, width = picture.shape[:2]
    left, top = round(box.left * width), round(box.top * height)
    right, bottom = round(box.right * width), round(box.bottom * height)
    colour = COLOURS_BGR[sum(box.label.encode()) % len(COLOURS_BGR)]
    thickness = max(2, height // 250)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, thickness)
    _draw_text(picture, f"{box.label} {box.confidence:.2f}", at=(left, top), colour=colour)


def _draw_text(
    picture: NDArray[np.uint8], text: str, *, at: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Write `text` on a filled bar whose lower left is at `at`, moved into the picture."""
    height, width = picture.shape[:2]
    scale = max(0.45, height * TEXT_SCALE_PER_PIXEL)
    (text_width, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    bar_height = text_height + below + 4
    left = max(0, min(at[0], width - text_width - 6))
    bottom = max(bar_height, at[1])
    cv2.rectangle(
        picture, (left, bottom - bar_height), (left + text_width + 6, bottom), colour, cv2.FILLED
    )
    cv2.putText(
        picture,
        text,
        (left + 3, bottom - below),
        cv2.FONT_HERSHEY_SIMPLEX,
        scale,
        WHITE_BGR,
        1,
        cv2.LINE_AA,
    )
