"""Memory of an agent that only infers: FastestDet int8 over a whole real video, in a fresh process.

Prints one JSON line: peak resident memory (VmHWM, MB of 10^6 bytes), what was loaded, and how fast.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.requirements import require_data

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "deploy" / "examples" / "fastestdet.toml"
RSS_MB_MAX = 130.0
FORBIDDEN = ("torch", "flwr", "fastapi", "sqlalchemy", "onnx", "sklearn")

# Runs in the measured process: nothing of the tests may be imported there.
MEASURED = """
import json, sys
from pathlib import Path
from edge_agent.command_line.try_model import run_try
from edge_agent.command_line.try_summary import summary_as_json
model, spec, video, forbidden = sys.argv[1:5]
summary = run_try(Path(model), Path(spec), video, items_max=0)
status = Path("/proc/self/status").read_text()
peak_kib = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({
    "rss_mb_max": round(peak_kib * 1024 / 1e6, 1),
    "forbidden_loaded": [name for name in forbidden.split(",") if name in sys.modules],
    **{key: value for key, value in json.loads(summary_as_json(summary)).items()
       if key in ("items", "items_failed", "items_with_boxes", "fps", "inference_ms_p50",
                  "inference_ms_p95")},
}))
"""


def measure(model: Path, video: Path) -> dict[str, object]:
    """Return what a fresh process used and found."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(model), str(SPEC), str(video), ",".join(FORBIDDEN)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def make_int8(folder: Path) -> Path:
    """Return FastestDet in int8, calibrated on the video; another process makes it."""
    path = folder / "fastestdet-int8.onnx"
    if not path.exists():
        model, video = require_data("models/FastestDet.onnx"), _video()
        subprocess.run(
            [sys.executable, "-m", "tests.support.detector_int8", model, video, path],
            check=True,
            capture_output=True,
            timeout=170,
            cwd=ROOT,
        )
    return path


def _video() -> Path:
    return require_data("data/video/car-detection.mp4")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(make_int8(Path(folder)), _video())
    print(json.dumps({"bench": "infer_rss", "rss_mb_limit": RSS_MB_MAX, **measured}))
