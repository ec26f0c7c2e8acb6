"""`make demo ONCE=1`, as a stranger runs it after the first set-up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOP_S_MAX = 150  # What the demo promises on two cores; this suite gives it other work beside


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.xdist_group("processes")
def test_the_demo_tells_its_story_and_says_its_figures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--once"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["devices"] == 3
    assert figures["items_decided"] > 200
    assert figures["swaps"] >= 5
    assert figures["items_lost_in_swaps"] == 0
    assert figures["receipts_verified"] >= 7  # Two models, three devices, two releases
    assert figures["accuracy_release_2"] > figures["accuracy_release_1"] > 0.5
    assert figures["federated_rounds"] == 6
    assert figures["dropout_survived"] is True
    assert figures["candidate_verdict"] == "passed"
    assert len(figures["accuracy_per_device_before"]) >= 2  # One may be late
    assert len(figures["accuracy_per_device_after"]) == 3
    assert 50_000 < figures["bytes_per_round"] < 546_344 / 3  # int8 of 136,586 parameters
    assert figures["bad_release_undone"] is True
    assert 0 < figures["undo_seconds"] < LOOP_S_MAX
    assert figures["anomalies_found"] > 0
