"""NAB: the anomaly pipeline as a stream beside Windowed Gaussian, same scorer, same run.

Prints one JSON line. Each row of a file is the one-sample window of a model that tells it as its
score; Concluder with `novelty` at its defaults does the rest, one row after the other. Each is
scored over the whole corpus with NAB's own way of choosing a threshold, the best over the corpus;
and at one threshold for both halves: ours the default, Windowed Gaussian's the best over the
half to choose on. Every other file of a folder, from its first, is of that half; what the other,
held out, is worth is said in edge_agent/decisions/README.md.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_agent.decisions.concluder import Concluder
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, WindowInput
from shared.pipeline.decisions import DecisionSettings, NoveltySettings
from shared.wire.records import Scored
from tests.benchmarks.nab_scoring import (
    LOW_FALSE_ALARMS,
    LOW_MISSES,
    Floats,
    Series,
    load_corpus,
    score_corpus,
    windowed_gaussian,
)
from tests.support.requirements import require_data

SPEC = ModelSpec(
    model="latest",
    task=Task.ANOMALY,
    input=WindowInput(samples=1),
    output=OutputSpec(decoder=Decoder.SCORE),
)
SETTINGS = NoveltySettings()
PUBLISHED_WINDOWED_GAUSSIAN = 39.65


def stream(values: Floats) -> Floats:
    """Return what the pipeline says of each row, (rows,)."""
    concluder = Concluder(SPEC, DecisionSettings(novelty=SETTINGS))
    scores = np.zeros(values.size)
    for row, value in enumerate(values.astype(np.float32)):
        batch = value.reshape(1, 1, 1)
        conclusion = concluder.conclude((batch,), batch=batch, placement=None, at_s=float(row))
        assert isinstance(conclusion.outcome, Scored), "the spec's task is anomaly"
        scores[row] = conclusion.outcome.score
    return scores


def held_out(corpus: Sequence[Series]) -> list[bool]:
    """Return of each file whether it is held out."""
    seen: Counter[str] = Counter()
    out = []
    for series in corpus:
        folder = series.name.split("/")[0]
        out.append(seen[folder] % 2 == 1)
        seen[folder] += 1
    return out


def halves(
    corpus: list[Series], scores: list[Floats], *, threshold: float | None
) -> dict[str, float]:
    """Return the standard scores of both halves and the whole at one threshold, for people."""
    parts: tuple[list[int], list[int]] = ([], [])
    for index, is_held_out in enumerate(held_out(corpus)):
        parts[is_held_out].append(index)
    names = {"chosen_on": parts[0], "held_out": parts[1], "whole": sorted(parts[0] + parts[1])}
    told = {}
    for name, indices in names.items():
        part = [corpus[i] for i in indices], [scores[i] for i in indices]
        score = score_corpus(*part, threshold=threshold)
        threshold = score.threshold  # The first half's, where none was given
        told[name] = round(score.normalised, 2)
    return told


def tell(corpus: list[Series], scores: list[Floats]) -> dict[str, object]:
    """Return the scores of a detector, for people."""
    standard = score_corpus(corpus, scores)
    return {
        "standard": round(standard.normalised, 2),
        "low_fp": round(score_corpus(corpus, scores, profile=LOW_FALSE_ALARMS).normalised, 2),
        "low_fn": round(score_corpus(corpus, scores, profile=LOW_MISSES).normalised, 2),
        "threshold": round(standard.threshold, 4),
        "windows_hit": standard.windows_hit,
        "false_alarms": standard.false_alarms,
    }


def main() -> None:
    """Score both, and print."""
    corpus = load_corpus(require_data("data/nab"))
    gaussian = [windowed_gaussian(series.values) for series in corpus]
    started_s = time.perf_counter()
    ours = [stream(series.values) for series in corpus]
    took_s = time.perf_counter() - started_s
    rows = sum(series.values.size for series in corpus)
    print(
        json.dumps(
            {
                "bench": "nab",
                "files": len(corpus),
                "windows": sum(len(series.windows) for series in corpus),
                "ours": tell(corpus, ours),
                "ours_one_threshold": halves(corpus, ours, threshold=SETTINGS.threshold),
                "windowed_gaussian": tell(corpus, gaussian),
                "windowed_gaussian_one_threshold": halves(corpus, gaussian, threshold=None),
                "windowed_gaussian_published": PUBLISHED_WINDOWED_GAUSSIAN,
                "windows_per_s": round(rows / took_s),
            }
        )
    )


if __name__ == "__main__":
    main()
