"""NAB's published scoring rule, and its data.

Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly
Benchmark", ICMLA 2015, arXiv:1510.03336.

1. The first 15 % of a file, at most 15 % of 5,000 rows, are probation: nothing there counts.
2. A row whose score reaches the threshold is a detection. y is its place relative to its window,
   from -1 at the left edge to 0 just behind the right; sigma(y) = 2 / (1 + exp(5 y)) - 1.
   The best (earliest) detection in a window earns sigma(y) / sigma(-1); a window without one
   costs 1. A detection outside costs 0.11 of sigma(y) behind the last window (y in window widths,
   at least -1), and 0.11 before the first.
3. The threshold is the one that is best over the whole corpus: one number for all files.
4. Normalised: 100 x (score - null) / (perfect - null), null being what silence gets, perfect a
   detection at the left edge of every window and none elsewhere.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROBATION_SHARE = 0.15
PROBATION_ROWS_MAX = 5000
FAR_BEHIND = 3.0  # Window widths; from here on a false positive costs all of it

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a hit, a false alarm and a miss weigh; all positive."""

    hit: float = 1.0
    false_alarm: float = 0.11
    miss: float = 1.0


STANDARD = Profile()
LOW_FALSE_ALARMS = Profile(false_alarm=0.22)
LOW_MISSES = Profile(miss=2.0)


@dataclass(frozen=True, slots=True)
class Series:
    """One file: what a sensor measured, and where a person saw something unusual."""

    name: str
    times: tuple[str, ...]
    values: Floats  # (rows,)
    windows: tuple[tuple[int, int], ...]  # First and last row of each, in order


@dataclass(frozen=True, slots=True)
class NabScore:
    """Of one detector over a corpus."""

    normalised: float  # 0..100; below 0: worse than silence
    raw: float
    threshold: float  # Chosen over the corpus
    windows_hit: int
    windows_count: int
    false_alarms: int  # Rows


@dataclass(frozen=True, slots=True)
class _Points:
    """The rows of a corpus that count."""

    scores: Floats  # (rows,) what the detector said
    gains: Floats  # (rows,) what a detection there earns
    windows: NDArray[np.int64]  # (rows,) index of its window over the corpus; -1: none


def sigma(place: float) -> float:
    """Return what a detection at `place` is worth, -1..1; see rule 2."""
    return -1.0 if place >= FAR_BEHIND else 2.0 / (1.0 + math.exp(5.0 * place)) - 1.0


def probation_rows(rows_count: int) -> int:
    """Return how many rows at the start do not count; see rule 1."""
    return min(math.floor(PROBATION_SHARE * rows_count), int(PROBATION_SHARE * PROBATION_ROWS_MAX))


def gains_of(
    rows_count: int, windows: Sequence[tuple[int, int]], profile: Profile
) -> tuple[Floats, NDArray[np.int64]]:
    """Return what a detection at each row earns, and which window it is in (-1: none)."""
    gains = np.full(rows_count, -profile.false_alarm)
    inside = np.full(rows_count, -1, dtype=np.int64)
    for index, (first, last) in enumerate(windows):
        width = last - first + 1
        until = windows[index + 1][0] if index + 1 < len(windows) else rows_count
        for row in range(last + 1, until):
            # A window of one row has no width to measure by: far behind at once.
            place = (row - last) / (width - 1) if width > 1 else FAR_BEHIND
            gains[row] = profile.false_alarm * sigma(place)
    for index, (first, last) in enumerate(windows):
        width = last - first + 1
        for row in range(first, last + 1):
            gains[row] = profile.hit * sigma(-(last - row + 1) / width) / sigma(-1.0)
            inside[row] = index
    return gains, inside


def score_corpus(
    corpus: Sequence[Series],
    scores: Sequence[Floats],
    *,
    profile: Profile = STANDARD,
    threshold: float | None = None,
) -> NabScore:
    """Return the score of a detector.

    Args:
        corpus: the files.
        scores: (rows,) of each: the higher, the more unusual.
        profile: what hits and misses weigh.
        threshold: scores from here on are detections; None: the best one, rule 3.
    """
    points, null, perfect = _points(corpus, scores, profile)
    if threshold is None:
        threshold = _best_threshold(points, profile)
    is_detection = points.scores >= threshold
    outside = is_detection & (points.windows < 0)
    best = _best_gains(points, is_detection, profile)
    raw = float(points.gains[outside].sum() + sum(best.values()))
    return NabScore(
        normalised=100.0 * (raw - null) / (perfect - null),
        raw=raw,
        threshold=threshold,
        windows_hit=len(set(points.windows[is_detection & (points.windows >= 0)].tolist())),
        windows_count=sum(len(series.windows) for series in corpus),
        false_alarms=int(outside.sum()),
    )


def _points(
    corpus: Sequence[Series], scores: Sequence[Floats], profile: Profile
) -> tuple[_Points, float, float]:
    kept: list[tuple[Floats, Floats, NDArray[np.int64]]] = []
    windows_before = 0
    for series, row_scores in zip(corpus, scores, strict=True):
        assert row_scores.shape == series.values.shape, "one score per row"
        gains, inside = gains_of(row_scores.size, series.windows, profile)
        start = probation_rows(row_scores.size)
        inside[inside >= 0] += windows_before
        windows_before += len(series.windows)
        kept.append((row_scores[start:], gains[start:], inside[start:]))
    points = _Points(*(np.concatenate(column) for column in zip(*kept, strict=True)))
    return points, -profile.miss * windows_before, profile.hit * windows_before


def _best_gains(
    points: _Points, is_detection: NDArray[np.bool_], profile: Profile
) -> dict[int, float]:
    best = {int(window): -profile.miss for window in np.unique(points.windows) if window >= 0}
    for row in np.flatnonzero(is_detection & (points.windows >= 0)):
        window = int(points.windows[row])
        best[window] = max(best[window], float(points.gains[row]))
    return best


def _best_threshold(points: _Points, profile: Profile) -> float:
    """Return the threshold of the best score: rows are let in from the highest score down."""
    order = np.argsort(-points.scores, kind="stable")
    best_gain = {int(window): -profile.miss for window in np.unique(points.windows) if window >= 0}
    total = sum(best_gain.values())
    best, best_threshold, last = total, math.inf, math.inf
    rows = zip(
        points.scores[order].tolist(),
        points.gains[order].tolist(),
        points.windows[order].tolist(),
        strict=True,
    )
    for score, gain, window in rows:
        if score != last:  # All rows of the score before are in
            if total > best:
                best, best_threshold = total, last
            last = score
        if window < 0:
            total += gain
        elif gain > best_gain[window]:
            total += gain - best_gain[window]
            best_gain[window] = gain
    return last if total > best else best_threshold


def load_corpus(folder: Path) -> list[Series]:
    """Return every file of NAB's `data` under `folder`, with NAB's own windows."""
    windows = json.loads((folder / "labels" / "combined_windows.json").read_bytes())
    corpus = []
    for name in sorted(windows):
        with (folder / "data" / name).open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        times = tuple(row[0] for row in rows)
        first_row: dict[str, int] = {}
        for index, time in enumerate(times):
            first_row.setdefault(time, index)
        corpus.append(
            Series(
                name=name,
                times=times,
                values=np.array([float(row[1]) for row in rows]),
                windows=tuple(
                    (first_row[start.split(".")[0]], first_row[end.split(".")[0]])
                    for start, end in windows[name]
                ),
            )
        )
    return corpus


def windowed_gaussian(values: Floats, *, rows: int = 6400, step: int = 100) -> Floats:
    """Return 1 - the tail probability of each value under the rows before it: NAB's own detector.

    The window grows to `rows`, then moves on by `step` rows at a time.
    """
    scores = np.zeros(values.size)
    for index in range(1, values.size):
        moved = (index - rows) // step * step if index > rows else 0
        if index <= rows or (index - rows) % step == 0:
            before = values[moved : min(index, moved + rows)]
            mean, spread = float(before.mean()), float(before.std()) or 1e-6
        tail = 0.5 * math.erfc(abs(values[index] - mean) / spread / math.sqrt(2.0))
        scores[index] = 1.0 - tail
    return scores
