"""Tracker: boxes of frame after frame to tracks, after ByteTrack (Zhang et al., ECCV 2022). Pure.

1. Each track foresees its box (constant velocity, a Kalman filter per coordinate of centre and
   size; times are real, so irregular frames and gaps are foreseen right).
2. First the high boxes are matched with all live tracks: gain = IoU x confidence, IoU at least
   `overlap_min`. Then the low boxes with the told tracks that are left and were seen last time:
   IoU at least `overlap_low_min`. Both exactly (assignment.py).
3. A high box left over from `new_min` on starts a track. It is told from its `hits_min`th box on;
   before that, a frame without its box ends it.
4. A track unseen for longer than `lost_s_max` ends; one that the last frame still showed only where
   the next frame comes later than PAUSE_S_MAX, and than twice the pause before: frames may lie far
   apart, but who stands there after a camera's outage may be somebody else. Numbers rise from 1 and
   are never used again.
5. At most TRACKS_MAX live at once; boxes beyond start none.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.assignment import assign
from shared.model.postprocess import overlaps
from shared.pipeline.decisions import TrackingSettings
from shared.wire.records import BOXES_MAX, Box

TRACKS_MAX = 2 * BOXES_MAX
STEP_S_MAX = 10.0  # Foreseen at most as far: velocity says nothing beyond
PAUSE_S_MAX = 10.0

# Spreads as shares of the box's height, per frame at 30 frames a second, as in ByteTrack and
# DeepSORT (Wojke et al., 2017): position 1/20, velocity 1/160.
POSITION_SHARE = 1.0 / 20.0
VELOCITY_SHARE = 1.0 / 160.0
RATE_HZ = 30.0

Floats = NDArray[np.float64]


@dataclass(slots=True)
class LiveTrack:
    """One object; changed by its Tracker only."""

    number: int
    state: Floats  # (4, 2): centre x, centre y, width, height; each value and change a second
    spread: Floats  # (4, 2, 2): covariance of each
    at_s: float  # What `state` is of
    first_s: float
    seen_s: float
    hits: int
    votes: dict[str, float]  # Confidence collected by label
    confidence: float
    box: tuple[float, float, float, float]  # As last seen
    is_seen: bool = True  # In the last frame

    @property
    def label(self) -> str:
        """Return what it was called most, weighed by confidence."""
        return max(self.votes, key=lambda label: self.votes[label])


class Tracker:
    """See the rules above. Not thread-safe."""

    def __init__(self, settings: TrackingSettings) -> None:
        """Start without a track."""
        self._settings = settings
        self._tracks: list[LiveTrack] = []
        self._numbers_used = 0
        self._at_s = math.inf  # Of the last frame
        self._pause_s = 0.0  # Between the last two

    def update(self, boxes: tuple[Box, ...], *, at_s: float) -> list[LiveTrack]:
        """Return the told tracks that are in this frame, oldest first; see the rules above."""
        followed = self._settings.labels
        kept = [box for box in boxes if not followed or box.label in followed]
        high = [box for box in kept if box.confidence >= self._settings.high_min]
        low = [
            box
            for box in kept
            if self._settings.low_min <= box.confidence < self._settings.high_min
        ]
        self._end_lost(at_s)
        was_seen = {track.number for track in self._tracks if track.is_seen}
        for track in self._tracks:
            _foresee(track, at_s)
            track.is_seen = False
        left = self._match(self._tracks, high, self._settings.overlap_min, at_s)
        waiting = [
            track
            for track in self._tracks
            if not track.is_seen and self._is_told(track) and track.number in was_seen
        ]
        self._match(waiting, low, self._settings.overlap_low_min, at_s)
        self._tracks = [track for track in self._tracks if self._lives(track, at_s)]
        for box in left:
            self._start(box, at_s)
        return [track for track in self._tracks if track.is_seen and self._is_told(track)]

    def hold(self, *, at_s: float) -> list[LiveTrack]:
        """Return the told tracks of the last frame, still where they stood."""
        self._note_time(at_s)
        for track in self._tracks:
            if track.is_seen:
                track.state[:, 1] = 0.0
                track.at_s = track.seen_s = max(track.seen_s, at_s)
        return [track for track in self._tracks if track.is_seen and self._is_told(track)]

    def start_after(self, other: "Tracker") -> None:
        """Number tracks from where `other` stopped."""
        self._numbers_used = max(self._numbers_used, other.numbers_used)

    @property
    def numbers_used(self) -> int:
        """Return the highest number given so far."""
        return self._numbers_used

    @property
    def alive(self) -> frozenset[int]:
        """Return the numbers of all tracks that may come back."""
        return frozenset(track.number for track in self._tracks)

    def _end_lost(self, at_s: float) -> None:
        """End what was unseen for too long before this frame came; see rule 4."""
        lost_s_max = self._settings.lost_s_max
        seen_s_max = max(lost_s_max, PAUSE_S_MAX, 2.0 * self._pause_s)
        self._tracks = [
            track
            for track in self._tracks
            if at_s - track.seen_s <= (seen_s_max if track.is_seen else lost_s_max)
        ]
        self._note_time(at_s)

    def _note_time(self, at_s: float) -> None:
        self._pause_s, self._at_s = max(0.0, at_s - self._at_s), at_s

    def _match(
        self, tracks: list[LiveTrack], boxes: list[Box], overlap_min: float, at_s: float
    ) -> list[Box]:
        """Give each box its track; return the boxes that found none."""
        if not tracks or not boxes:
            return boxes
        foreseen = np.array([_corners(track.state[:, 0]) for track in tracks])  # (t, 4)
        found = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes])  # (b, 4)
        overlap = overlaps(foreseen, found)  # (t, b)
        gains = overlap * np.array([box.confidence for box in boxes])[None]
        gains[overlap < overlap_min] = 0.0
        if self._settings.by_label:
            is_same = np.array([[track.label == box.label for box in boxes] for track in tracks])
            gains[~is_same] = 0.0
        taken = set()
        for row, column in assign(gains):
            _correct(tracks[row], boxes[column], at_s)
            taken.add(column)
        return [box for index, box in enumerate(boxes) if index not in taken]

    def _start(self, box: Box, at_s: float) -> None:
        if box.confidence < self._settings.new_min or len(self._tracks) >= TRACKS_MAX:
            return
        self._numbers_used += 1
        measured = _measure(box)
        spread = np.zeros((4, 2, 2))
        size = max(measured[3], 1e-3)
        spread[:, 0, 0] = (2.0 * POSITION_SHARE * size) ** 2
        spread[:, 1, 1] = (10.0 * VELOCITY_SHARE * size * RATE_HZ) ** 2
        self._tracks.append(
            LiveTrack(
                number=self._numbers_used,
                state=np.stack([measured, np.zeros(4)], axis=1),  # (4, 2)
                spread=spread,
                at_s=at_s,
                first_s=at_s,
                seen_s=at_s,
                hits=1,
                votes={box.label: box.confidence},
                confidence=box.confidence,
                box=(box.left, box.top, box.right, box.bottom),
            )
        )

    def _is_told(self, track: LiveTrack) -> bool:
        return track.hits >= self._settings.hits_min

    def _lives(self, track: LiveTrack, at_s: float) -> bool:
        if track.is_seen:
            return True
        return self._is_told(track) and at_s - track.seen_s <= self._settings.lost_s_max


def _foresee(track: LiveTrack, at_s: float) -> None:
    """Move `track` on to now; Kalman's prediction with constant velocity."""
    step_s = min(max(at_s - track.at_s, 0.0), STEP_S_MAX)
    track.at_s = max(track.at_s, at_s)
    if step_s <= 0.0:
        return
    move = np.array([[1.0, step_s], [0.0, 1.0]])
    size = max(float(track.state[3, 0]), 1e-3)
    frames = step_s * RATE_HZ
    noise = np.diag(
        [
            (POSITION_SHARE * size) ** 2 * frames,
            (VELOCITY_SHARE * size * RATE_HZ) ** 2 * frames,
        ]
    )
    track.state = track.state @ move.T  # (4, 2)
    track.state[2:, 0] = np.maximum(track.state[2:, 0], 1e-3)
    track.spread = move @ track.spread @ move.T + noise  # (4, 2, 2)


def _correct(track: LiveTrack, box: Box, at_s: float) -> None:
    """Take `box` as seen; Kalman's correction, each coordinate for itself."""
    measured = _measure(box)
    noise = (POSITION_SHARE * max(float(measured[3]), 1e-3)) ** 2
    weight = track.spread[:, :, 0] / (track.spread[:, 0, 0] + noise)[:, None]  # (4, 2)
    track.state = track.state + weight * (measured - track.state[:, 0])[:, None]
    track.spread = track.spread - weight[:, :, None] * track.spread[:, None, 0, :]
    track.seen_s, track.is_seen = at_s, True
    track.hits += 1
    track.votes[box.label] = track.votes.get(box.label, 0.0) + box.confidence
    track.confidence = box.confidence
    track.box = (box.left, box.top, box.right, box.bottom)


def _measure(box: Box) -> Floats:
    return np.array(
        [
            (box.left + box.right) / 2.0,
            (box.top + box.bottom) / 2.0,
            box.right - box.left,
            box.bottom - box.top,
        ]
    )


def _corners(values: Floats) -> tuple[float, float, float, float]:
    x, y, width, height = values.tolist()
    return x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0
