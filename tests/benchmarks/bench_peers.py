"""CPU a frame beside `ultralytics predict(stream=True)`: the same ONNX file, the same video.

    make bench-peers

1. The model is YOLO11n as ultralytics builds it from its own description and exports it, with
   random weights: what a frame costs does not depend on what the weights are worth. (No box passes
   the threshold on either side: neither pays for suppression.)
2. Both run in turn, in processes of their own, several times; medians. Start-up is not counted.
3. The network's own run is the same work on both sides, and more of a frame the larger the picture:
   the bare run is measured beside ours, as a share of theirs too. Nobody can get below it; what
   either spends beside it is compared as well.

Prints one JSON line: per picture size our CPU a frame and the bare run's as shares of theirs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Resize,
    Task,
    encode_spec,
)
from tests.support.requirements import require_data

ROOT = Path(__file__).parents[2]
CPU_SHARE_MAX = 0.60
SIDES = (160, 224, 320)
WARM_FRAMES, FRAMES = 40, 400
CONFIDENCE_MIN, OVERLAP_MAX = 0.35, 0.45

# Both run in processes of their own; the first in the peer's venv.
# torchvision has no wheel for the CPU build of torch: it only has to be importable.
IMPORTABLE = """
import sys, torch
for name in ("nms", "qnms"):
    torch.library.define(
        f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
EXPORT = (
    IMPORTABLE
    + """
from ultralytics import YOLO
YOLO("yolo11n.yaml", task="detect").export(format="onnx", imgsz=int(sys.argv[1]), simplify=False)
"""
)
MEASURE = """
import json, os, resource, time
def cpu_s():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)
def rss_mb():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6
"""
THEIRS = (
    MEASURE
    + IMPORTABLE
    + """
from ultralytics import YOLO
model, video, side, warm, frames, confidence, overlap = sys.argv[1:8]
results = YOLO(model, task="detect").predict(
    video, imgsz=int(side), conf=float(confidence), iou=float(overlap), stream=True, verbose=False,
    device="cpu", save=False)
for count, _ in enumerate(results, start=1):
    if count == int(warm):
        cpu, wall = cpu_s(), time.perf_counter()
    if count == int(warm) + int(frames):
        break
taken, used = time.perf_counter() - wall, cpu_s() - cpu
count = int(frames)
print(json.dumps({"cpu_ms": used / count * 1e3, "fps": count / taken, "rss_mb": rss_mb()}))
"""
)


def yolo_spec(side: int) -> ModelSpec:
    """Return what the model exported for pictures of `side` pixels takes and gives."""
    return ModelSpec(
        model="yolo11n",
        task=Task.DETECTION,
        input=ImageInput(
            width=side,
            height=side,
            colour=Colour.RGB,
            resize=Resize.LETTERBOX,
            scale=(255.0,),
        ),
        output=OutputSpec(
            decoder=Decoder.YOLO_V8,
            classes=tuple(f"class {index}" for index in range(80)),
            confidence_min=CONFIDENCE_MIN,
            overlap_max=OVERLAP_MAX,
        ),
    )


def run(command: list[str], folder: Path) -> dict[str, float]:
    """Return the JSON that a measured process printed last."""
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "False"}
    environment |= {"YOLO_CONFIG_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, float] = json.loads(lines[-1]) if lines else {}
    return found


def ours(model: Path, spec_path: Path, video: Path, *, is_isolated: bool) -> None:
    """Measure our pipeline on `model` in this process, then the bare run, and print."""
    import time

    import msgspec

    from edge_agent.inference.onnx_session import load_onnx_session
    from edge_agent.inference.procfs_memory import limit_arenas, pad_heap
    from tests.benchmarks.bench_infer import open_session
    from tests.benchmarks.bench_infer_parts import Bare, Case, Ours, fold, measured

    limit_arenas()  # As the agent does
    pad_heap()
    spec = msgspec.json.decode(spec_path.read_bytes(), type=ModelSpec)
    folded = model.with_name("folded.onnx")
    case = Case(model, folded, spec, fold(model, spec, folded), video)
    session, elsewhere_s = open_session(case, is_isolated=is_isolated)
    pipeline = Ours(case, session)
    pipeline.start()
    pipeline(WARM_FRAMES)
    cpu, wall = time.process_time() + elsewhere_s(), time.perf_counter()
    pipeline(FRAMES)
    taken = time.perf_counter() - wall
    used = time.process_time() + elsewhere_s() - cpu
    pipeline.stop()
    session.close()
    bare = Bare(load_onnx_session(case.folded, case.folded_spec))
    bare(WARM_FRAMES)
    bare_ms = measured(bare, FRAMES, time.process_time).cpu_ms
    print(
        json.dumps({"cpu_ms": used / FRAMES * 1e3, "fps": FRAMES / taken, "bare_cpu_ms": bare_ms})
    )


def compare(peer: str, side: int, *, rounds: int, is_isolated: bool) -> dict[str, object]:
    """Return the medians of both and their ratio, for pictures of `side` pixels."""
    video = require_data("data/video/bottle-detection.mp4")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([peer, "-c", EXPORT, str(side)], folder)
        model, spec_path = folder / "yolo11n.onnx", folder / "spec.json"
        spec_path.write_bytes(encode_spec(yolo_spec(side)))
        numbers = [side, WARM_FRAMES, FRAMES, CONFIDENCE_MIN, OVERLAP_MAX]
        theirs = [peer, "-c", THEIRS, str(model), str(video), *map(str, numbers)]
        mine = [sys.executable, "-m", "tests.benchmarks.bench_peers", "--ours"]
        mine += [str(model), str(spec_path), str(video)]
        mine += [] if is_isolated else ["--in-process"]
        pairs = [(run(mine, folder), run(theirs, folder)) for _ in range(rounds)]

    def share(name: str) -> float:
        return round(statistics.median(a[name] / b["cpu_ms"] for a, b in pairs), 3)

    return {
        "cpu_of_ultralytics": share("cpu_ms"),
        "bare_of_ultralytics": share("bare_cpu_ms"),
        "beside_bare_of_ultralytics": round(
            statistics.median(
                (a["cpu_ms"] - a["bare_cpu_ms"]) / (b["cpu_ms"] - a["bare_cpu_ms"])
                for a, b in pairs
            ),
            3,
        ),
        "ours": _medians([a for a, _ in pairs]),
        "ultralytics": _medians([b for _, b in pairs]),
    }


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(one[key] for one in found), 2) for key in found[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="the Python of a venv that has ultralytics")
    parser.add_argument("--in-process", action="store_true", help="ours without a worker process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, help="pixels of a picture")
    parser.add_argument("--ours", nargs=3, type=Path, metavar=("MODEL", "SPEC", "VIDEO"))
    args = parser.parse_args()
    if args.ours:
        ours(*args.ours, is_isolated=not args.in_process)
    else:
        peer = str(Path(args.peer_python).absolute())
        figures: dict[str, object] = {"bench": "peers", "cpu_of_ultralytics_limit": CPU_SHARE_MAX}
        figures["isolation"] = "in-process" if args.in_process else "process"
        for size in args.sides:
            figures[f"yolo11n {size}"] = compare(
                peer, size, rounds=args.rounds, is_isolated=not args.in_process
            )
        print(json.dumps(figures))
