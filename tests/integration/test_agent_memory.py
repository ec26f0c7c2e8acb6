"""The whole agent on a real video stays small: release delivered, proved, telemetry flowing."""

from pathlib import Path

import pytest

from tests.benchmarks.bench_agent_rss import FRAMES_MIN, measure
from tests.benchmarks.bench_infer_rss import RSS_MB_MAX

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


@pytest.mark.timeout(300)
def test_an_agent_that_only_infers_stays_small_on_a_minute_of_video(tmp_path: Path) -> None:
    measured = measure(tmp_path, with_swaps=False)
    assert int(str(measured["frames_decided"])) >= FRAMES_MIN
    assert measured["items_dropped"] == 0
    assert measured["receipts"] == 1
    assert measured["forbidden_loaded"] == []
    assert float(str(measured["rss_mb_max"])) <= RSS_MB_MAX
