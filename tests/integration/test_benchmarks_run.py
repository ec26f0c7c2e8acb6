"""The benches of training run to their end at their smallest, so that they still do when needed."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.requirements import require_data

pytestmark = pytest.mark.slow

SECONDS_MAX = 240.0


def test_the_bench_of_int8_measures_every_form_and_tells_what_the_gate_chose() -> None:
    require_data("data/beijing-air-12-stations")
    told = _run("bench_quantize", "--only", "conv1d")["members"]["conv1d"]
    forms = told["forms"]
    assert set(forms) >= {"fp32", "int8", "int8-dynamic"}
    assert [name for name, row in forms.items() if row["is_chosen"]] == [told["chosen"]]
    for name in ("fp32", "int8"):
        row = forms[name]
        assert 0.0 < row["ms_median"] <= row["ms_p95"]
        assert 0.0 <= row["accuracy"] <= 1.0
    assert forms["fp32"]["agreement"] == 1.0
    assert forms["int8"]["bytes"] < forms["fp32"]["bytes"]


def test_the_bench_of_a_small_task_learns_a_pair_in_every_fold() -> None:
    require_data("data/fashion-mnist")
    told = _run("bench_small_task", "--arms", "partial", "--pair", "pullover", "shirt")
    arm = told["arms"]["partial"]
    assert len(arm["best_epochs"]) == 2
    assert 0 < arm["trained_parameters"] < told["parameters"]
    assert arm["test"]["low"] <= arm["test"]["mean"] <= arm["test"]["high"]


def _run(bench: str, *arguments: str) -> dict[str, Any]:
    """Return the JSON that a bench prints last."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{bench}", "--quick", *arguments],
        capture_output=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
