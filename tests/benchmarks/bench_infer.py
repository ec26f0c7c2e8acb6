"""How near a pipeline comes to what the machine can do, beside the naive loop. In one run each.

    make bench-infer [MODEL=file.onnx SPEC=spec.toml VIDEO=clip.mp4] [ARGS="--in-process --quick"]

1. Short blocks in turn (bare, front, ours, naive), many rounds; medians. CPU-EFF = (bare CPU +
   front CPU) / our CPU a frame; FPS/LIMIT = our frames a second x (bare ms a frame + front CPU ms /
   cores).
2. 8 cameras at 10 frames a second, ours and naive; then overload: 4 cameras at 60, or at more, so
   that they ask for OVERLOAD_FACTOR times what ours reached in rule 1. Frames must be dropped.
   Latency, picture to Decision, beside the bare run twice: its median in a tight loop, where caches
   and clock are warm, and its 95th percentile when runs come as the cameras' pictures do.
3. Memory of one camera with isolation and without, import time of the agent: fresh processes.

Prints one JSON line. Ratios are worth more than times; final figures need a quiet machine.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.decisions.decision import Decision
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.process_session import start_worker
from edge_agent.inference.procfs_memory import limit_arenas, pad_heap
from edge_agent.inference.session import ModelSession
from edge_agent.inference.slots import InferenceSlots
from edge_agent.inference.worker_limits import WorkerLimits
from edge_agent.sources.opencv_setup import set_up_opencv
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    ModelSpec,
    OutputSpec,
    Task,
    parse_spec,
)
from tests.benchmarks.bench_infer_memory import import_s, memory
from tests.benchmarks.bench_infer_naive import SETTLE_S, NaiveProcess
from tests.benchmarks.bench_infer_parts import (
    CLOCK,
    CORES,
    Bare,
    Case,
    Cost,
    Front,
    Ours,
    cpu_s_of,
    fold,
    measured,
)
from tests.support.requirements import require_data

ROOT = Path(__file__).parents[2]
LIMITS = {
    "cpu_eff": {"2 ms": 0.88, "7 ms": 0.93},
    "fps_limit": {"2 ms": 0.85, "7 ms": 0.92},
    "cpu_of_naive": 0.70,
    "cameras_cpu_of_naive": 0.45,
    "cameras_p95_of_bare": 2.0,
    "overload_p95_of_bare": 6.0,
    "uss_mb_isolated": 120.0,
    "uss_mb_in_process": 85.0,
}
CAMERAS, CAMERA_FPS, CAMERAS_S = 8, 10.0, 5.0
OVERLOAD, OVERLOAD_FPS_MIN, OVERLOAD_FACTOR = 4, 60.0, 2.0
PACED_S = 3.0


def yunet_spec(side: int) -> ModelSpec:
    return ModelSpec(
        model=f"yunet-{side}",
        task=Task.DETECTION,
        input=ImageInput(width=side, height=side, colour=Colour.BGR),
        output=OutputSpec(decoder=Decoder.YUNET, classes=("face",), confidence_min=0.6),
    )


def default_cases(folder: Path) -> list[Case]:
    """Return FastestDet and YuNet at both sizes on the real videos."""
    fastest = parse_spec((ROOT / "deploy" / "examples" / "fastestdet.toml").read_bytes())
    wanted = (
        ("FastestDet.onnx", fastest, "car-detection.mp4"),
        ("yunet_n_320_320.onnx", yunet_spec(320), "bottle-detection.mp4"),
        ("yunet_n_640_640.onnx", yunet_spec(640), "bottle-detection.mp4"),
    )
    return [
        make_case(require_data(f"models/{name}"), spec, require_data(f"data/video/{clip}"), folder)
        for name, spec, clip in wanted
    ]


def make_case(model: Path, spec: ModelSpec, video: Path, folder: Path) -> Case:
    folded = folder / f"{model.stem}-folded.onnx"
    return Case(model, folded, spec, fold(model, spec, folded), video)


def open_session(case: Case, *, is_isolated: bool) -> tuple[ModelSession, Callable[[], float]]:
    """Return the model loaded as the agent would, and what CPU seconds it has used elsewhere."""
    if not is_isolated:
        return load_onnx_session(case.folded, case.folded_spec), lambda: 0.0

    worker = start_worker(case.folded, case.folded_spec, WorkerLimits(), threads=CORES, clock=CLOCK)
    return worker, lambda: cpu_s_of(worker.standing.pid)


def compare(
    case: Case, naive: NaiveProcess, *, rounds: int, is_isolated: bool
) -> dict[str, object]:
    """Return figures of rule 1."""
    bare_session = load_onnx_session(case.folded, case.folded_spec)
    session, elsewhere_s = open_session(case, is_isolated=is_isolated)
    bare, front, ours = Bare(bare_session), Front(case), Ours(case, session)
    elsewhere: dict[str, Callable[[], float]] = {"ours": elsewhere_s, "naive": naive.cpu_s}
    ours.start()
    blocks: dict[str, Callable[[int], None]] = {
        "bare": bare,
        "front": front,
        "ours": ours,
        "naive": naive,
    }
    try:
        alone_ms = bare.alone_ms()
        paced_ms = bare.paced_p95_ms(CAMERAS * CAMERA_FPS, PACED_S)
        frames = max(40, int(500 / alone_ms) // CORES * CORES)
        for block in blocks.values():
            block(frames)
        costs: dict[str, list[Cost]] = {name: [] for name in blocks}
        faults_count = 0
        for _ in range(rounds):
            for name, block in blocks.items():
                faults_before = page_faults_count()
                cost = measured(block, frames, _cpu_s(elsewhere.get(name)))
                costs[name].append(cost)
                faults_count += (page_faults_count() - faults_before) * (name == "ours")
        stages = {stage.value: vars_of(p) for stage, p in ours.loop.times.percentiles().items()}
    finally:
        ours.stop()
        session.close()
    alone = {"bare_alone_ms": round(alone_ms, 2), "bare_paced_p95_ms": round(paced_ms, 2)}
    faults = {"page_faults_a_frame": round(faults_count / frames / rounds, 2)}
    return {**ratios(costs), **alone, **faults, "stages_ms": stages}


def page_faults_count() -> int:
    """Return how many pages this process was given so far without reading any from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _cpu_s(elsewhere_s: Callable[[], float] | None) -> Callable[[], float]:
    """Return what gives the CPU seconds of this process and, where one helps it, of another."""
    return lambda: time.process_time() + (elsewhere_s() if elsewhere_s is not None else 0.0)


def vars_of(percentiles: object) -> list[float]:
    return [round(getattr(percentiles, name), 3) for name in ("p50", "p95", "p99")]


@dataclass(frozen=True)
class Round:
    """One block of each."""

    bare: Cost
    front: Cost
    ours: Cost
    naive: Cost

    @property
    def least_cpu_ms(self) -> float:
        return self.bare.cpu_ms + self.front.cpu_ms

    @property
    def least_wall_ms(self) -> float:
        return self.bare.wall_ms + self.front.cpu_ms / CORES


def ratios(costs: dict[str, list[Cost]]) -> dict[str, object]:
    rows = [
        Round(*row)
        for row in zip(*(costs[name] for name in ("bare", "front", "ours", "naive")), strict=True)
    ]

    def median(of: Callable[[Round], float]) -> float:
        return round(statistics.median(of(row) for row in rows), 3)

    return {
        "cpu_eff": median(lambda row: row.least_cpu_ms / row.ours.cpu_ms),
        "cpu_eff_naive": median(lambda row: row.least_cpu_ms / row.naive.cpu_ms),
        "fps_limit": median(lambda row: row.least_wall_ms / row.ours.wall_ms),
        "fps_limit_naive": median(lambda row: row.least_wall_ms / row.naive.wall_ms),
        "cpu_of_naive": median(lambda row: row.ours.cpu_ms / row.naive.cpu_ms),
        "fps": median(lambda row: 1e3 / row.ours.wall_ms),
        "cpu_ms": {
            name: round(statistics.median(cost.cpu_ms for cost in costs[name]), 3) for name in costs
        },
    }


def cameras(
    case: Case, *, count: int, fps: float, seconds: float, is_isolated: bool
) -> dict[str, object]:
    """Return what `count` cameras cost ours, with one session and its slots shared."""
    session, elsewhere_s = open_session(case, is_isolated=is_isolated)
    slots = InferenceSlots(0)
    ours = [
        Ours(case, session, slots=slots, fps=fps, phase_s=i / fps / count) for i in range(count)
    ]
    for camera in ours:
        camera.start()
    try:
        time.sleep(SETTLE_S)
        for camera in ours:
            camera.results.clear()
        dropped = sum(camera.mailbox.counts.items_dropped for camera in ours)
        cpu, wall = time.process_time() + elsewhere_s(), time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - wall
        used = time.process_time() + elsewhere_s() - cpu
        results = [result for camera in ours for result in list(camera.results)]
        dropped = sum(camera.mailbox.counts.items_dropped for camera in ours) - dropped
    finally:
        for camera in ours:
            camera.stop()
        session.close()
    latencies = [result.latency_ms for result in results if isinstance(result, Decision)]
    return {
        "cpu_share": round(used / took, 3),
        "fps": round(len(latencies) / took, 1),
        "p50_ms": round(float(np.percentile(latencies, 50)), 2),
        "p95_ms": round(float(np.percentile(latencies, 95)), 2),
        "dropped": dropped,
        "taken_though_newer_was_there": sum(camera.mailbox.stale_count for camera in ours),
    }


def measure(case: Case, *, rounds: int, is_isolated: bool, seconds: float) -> dict[str, object]:
    """Return all figures of one model on one video. Args: seconds: of cameras; 0: none."""
    with NaiveProcess(case) as naive_process:
        figures = compare(case, naive_process, rounds=rounds, is_isolated=is_isolated)
        if not seconds:
            return figures
        ours = cameras(
            case, count=CAMERAS, fps=CAMERA_FPS, seconds=seconds, is_isolated=is_isolated
        )
        naive = naive_process.cameras(count=CAMERAS, fps=CAMERA_FPS, seconds=seconds)
    demanded = OVERLOAD_FACTOR * float(str(figures["fps"]))
    fps = max(OVERLOAD_FPS_MIN, demanded / OVERLOAD)
    over = cameras(case, count=OVERLOAD, fps=fps, seconds=seconds, is_isolated=is_isolated)
    assert over["dropped"], "this was no overload"
    alone_ms, paced_ms = (
        float(str(figures[name])) for name in ("bare_alone_ms", "bare_paced_p95_ms")
    )
    return {
        **figures,
        "cameras": ours,
        "cameras_naive": naive,
        "cameras_cpu_of_naive": round(float(str(ours["cpu_share"])) / naive["cpu_share"], 3),
        "cameras_p95_of_bare": round(float(str(ours["p95_ms"])) / alone_ms, 2),
        "cameras_p95_of_bare_paced": round(float(str(ours["p95_ms"])) / paced_ms, 2),
        "overload": {"camera_fps": round(fps), **over},
        "overload_p95_of_bare": round(float(str(over["p95_ms"])) / alone_ms, 2),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an ONNX file; default: FastestDet and YuNet")
    parser.add_argument("--spec", type=Path, help="its spec, as TOML")
    parser.add_argument("--video", type=Path, help="default: car-detection.mp4")
    parser.add_argument("--in-process", action="store_true", help="without a worker process")
    parser.add_argument("--quick", action="store_true", help="few rounds, no cameras, no memory")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=CAMERAS_S, help="of cameras, each time")
    parser.add_argument("--only", default="", help="of the default models those so named")
    args = parser.parse_args(arguments)
    set_up_opencv()
    limit_arenas()  # As the agent does
    pad_heap()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [one for one in default_cases(folder) if args.only in one.original.stem]
        if args.model:
            video = args.video or require_data("data/video/car-detection.mp4")
            cases = [make_case(args.model, parse_spec(args.spec.read_bytes()), video, folder)]
        figures: dict[str, object] = {"bench": "infer", "cores": CORES, "limits": LIMITS}
        figures["isolation"] = "in-process" if args.in_process else "process"
        for case in cases:
            label = f"{case.original.stem} x {case.video.stem}"
            figures[label] = measure(
                case,
                rounds=3 if args.quick else args.rounds,
                is_isolated=not args.in_process,
                seconds=0.0 if args.quick else args.seconds,
            )
            print(json.dumps({label: figures[label]}), file=sys.stderr)
        if not args.quick:
            figures["memory"] = {case.original.stem: memory(case) for case in cases}
            figures["agent_import_s"] = import_s()
    return figures


if __name__ == "__main__":
    print(json.dumps(main()))
