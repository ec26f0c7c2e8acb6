"""Frames with what was concluded drawn on them. For people only.

1. Boxes, and tracks with their numbers; lines and zones, with what they counted, where the overlay
   has them; for everything else a line of words at the top. Masks are painted over.
2. A small frame is enlarged, so that the words can be read; a large one is made smaller where the
   caller says so.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sinks.overlay import NO_OVERLAY, Overlay, Points
from shared.errors import RefusedError
from shared.wire.records import (
    Box,
    Classified,
    Detected,
    Estimated,
    Outcome,
    Scored,
    Segmented,
    Track,
    Tracked,
)

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
RED_BGR = (40, 40, 210)
MASK_BGR = (114, 114, 114)
PLACE_BGR = (0, 215, 255)
TEXT_SCALE_PER_PIXEL = 1 / 900  # Of the frame's height
SIDE_MIN = 320  # A smaller frame is enlarged
JPEG_SIDE_MAX = 65_500  # Of a JPEG file, by libjpeg
VALUES_DRAWN_MAX = 4
TALL = "Agj%("  # Every bar is as high as if it held these
WORDS_MAX = 6  # Lines of words at the top


def draw_outcome(
    pixels: NDArray[np.uint8],
    outcome: Outcome | None,
    *,
    overlay: Overlay = NO_OVERLAY,
    side_max: int = 0,
) -> NDArray[np.uint8]:
    """Return a copy of (H, W, 3) BGR pixels with `outcome` drawn on it.

    Args: side_max: the longer side of what is returned is at most this; 0: what a file can have.
    """
    picture = _scaled(pixels, side_max)
    for mask in overlay.masks:
        cv2.fillPoly(picture, [_corners(picture, mask)], MASK_BGR)
    if outcome is None:
        return picture
    _draw_places(picture, overlay, outcome)
    for place in _boxes(outcome):
        _draw_box(picture, place)
    top = 0
    for words, is_alarm in _words(outcome):
        top = _draw_text(picture, words, at=(0, top), colour=RED_BGR if is_alarm else DARK_BGR)
    return picture


def encode_jpeg(picture: NDArray[np.uint8], *, quality: int) -> bytes:
    """Return a picture as a JPEG file."""
    is_encoded, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
    assert is_encoded, "JPEG takes any uint8 picture"
    return data.tobytes()


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


def _scaled(pixels: NDArray[np.uint8], side_max: int) -> NDArray[np.uint8]:
    """Return a copy of a frame in the size that is drawn on."""
    height, width = pixels.shape[:2]
    side_max = side_max or JPEG_SIDE_MAX
    if max(height, width) > side_max:
        factor = side_max / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    times = max(1, -(-SIDE_MIN // min(height, width)))  # Rounded up
    if times > 1 and times * max(height, width) <= side_max:
        return pixels.repeat(times, axis=0).repeat(times, axis=1)
    return pixels.copy()


def _boxes(outcome: Outcome) -> Iterator[Box | Track]:
    """Yield what has a place; the best last, so that it is on top."""
    match outcome:
        case Detected(boxes=boxes):
            yield from reversed(boxes)
        case Tracked(tracks=tracks):
            yield from sorted(tracks, key=lambda track: track.confidence)
        case _:
            return


def _words(outcome: Outcome) -> Iterator[tuple[str, bool]]:
    """Yield lines of words, and whether each is an alarm."""
    match outcome:
        case Classified(label=label, confidence=confidence):
            yield f"{label} {confidence:.2f}", False
        case Scored(score=score, threshold=threshold, is_anomalous=is_anomalous):
            word = "anomalous" if is_anomalous else "normal"
            yield f"{word} {score:.3g} (threshold {threshold:.3g})", is_anomalous
        case Estimated(values=values):
            more = ", ..." if len(values) > VALUES_DRAWN_MAX else ""
            yield ", ".join(f"{value:.4g}" for value in values[:VALUES_DRAWN_MAX]) + more, False
        case Segmented(shares=shares):
            ranked = sorted(shares.items(), key=lambda item: -item[1])
            yield from ((f"{label} {share:.1%}", False) for label, share in ranked[:WORDS_MAX])
        case Detected() | Tracked():
            return


def _draw_places(picture: NDArray[np.uint8], overlay: Overlay, outcome: Outcome) -> None:
    totals, zones = {}, {}
    if isinstance(outcome, Tracked):
        totals = outcome.totals
        zones = {zone.zone: zone for zone in outcome.zones}
    thickness = max(1, picture.shape[0] // 300)
    for name, points in overlay.zones:
        corners, standing = _corners(picture, points), zones.get(name)
        cv2.polylines(picture, [corners], True, PLACE_BGR, thickness, cv2.LINE_AA)
        words = name if standing is None else f"{name} {standing.tracks_count}"
        _draw_text(picture, words, at=_top(corners), colour=DARK_BGR, is_below=True)
    for name, points in overlay.lines:
        corners = _corners(picture, points)
        cv2.polylines(picture, [corners], False, PLACE_BGR, thickness + 1, cv2.LINE_AA)
        counted = [f"{way} {totals.get(f'{name}/{way}', 0)}" for way in ("in", "out")]
        _draw_text(picture, f"{name} {' '.join(counted)}", at=_first(corners), colour=DARK_BGR)


def _draw_box(picture: NDArray[np.uint8], box: Box | Track) -> None:
    height, width = picture.shape[:2]
    left, top = round(box.left * width), round(box.top * height)
    right, bottom = round(box.right * width), round(box.bottom * height)
    colour = COLOURS_BGR[sum(box.label.encode()) % len(COLOURS_BGR)]
    thickness = max(2, height // 250)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, thickness)
    number = f"#{box.track} " if isinstance(box, Track) else ""
    _draw_text(picture, f"{number}{box.label} {box.confidence:.2f}", at=(left, top), colour=colour)


def _draw_text(
    picture: NDArray[np.uint8],
    text: str,
    *,
    at: tuple[int, int],
    colour: tuple[int, int, int],
    is_below: bool = False,
) -> int:
    """Write `text` on a filled bar that stands on `at`, or hangs below it; moved into the picture.

    Returns the y of the bar's bottom and a bar more: where the next one below it stands.
    """
    height, width = picture.shape[:2]
    scale = max(0.45, height * TEXT_SCALE_PER_PIXEL)
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    (_, text_height), below = cv2.getTextSize(TALL, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    bar_height = text_height + below + 4
    left = max(0, min(at[0], width - text_width - 6))
    bottom = max(bar_height, min(at[1] + (bar_height if is_below else 0), height))
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
    return int(bottom + bar_height)


def _corners(picture: NDArray[np.uint8], points: Points) -> NDArray[np.int32]:
    """Return shares of a frame as pixels, (N, 2)."""
    height, width = picture.shape[:2]
    return np.round(np.asarray(points) * (width, height)).astype(np.int32)


def _top(corners: NDArray[np.int32]) -> tuple[int, int]:
    """Return the highest corner, of several the leftmost."""
    x, y = min(corners.tolist(), key=lambda corner: (corner[1], corner[0]))
    return int(x), int(y)


def _first(corners: NDArray[np.int32]) -> tuple[int, int]:
    return int(corners[0, 0]), int(corners[0, 1])
