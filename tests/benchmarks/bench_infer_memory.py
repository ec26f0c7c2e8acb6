"""Memory of one camera, and the time that importing the agent takes: each in a fresh process."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tests.benchmarks.bench_infer_parts import Case

ROOT = Path(__file__).parents[2]

# securesystemslib imports boto3 where it finds it: moto brings it here, nothing does on a device.
AS_ON_A_DEVICE = "import sys; sys.modules['boto3'] = None\n"

# Runs in the measured process: nothing of the tests may be imported there.
MEASURED = (
    AS_ON_A_DEVICE
    + """
import json, os, sys, threading, time
from pathlib import Path
import msgspec
from edge_agent.config import TelemetrySettings
from edge_agent.inference.active_model import ActiveModel, LoadedRelease
from edge_agent.inference.procfs_memory import hand_back_memory, limit_arenas, pad_heap
from edge_agent.inference.slots import InferenceSlots
from edge_agent.pipeline import Pipeline
from shared.clock import SystemClock
from shared.model.spec import ModelSpec
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sources import VideoSettings, Pace

model, spec_json, video, is_isolated = sys.argv[1:5]
limit_arenas()
pad_heap()
clock, spec = SystemClock(), msgspec.json.decode(spec_json, type=ModelSpec)
if is_isolated == "1":
    from edge_agent.inference.process_session import start_worker
    from edge_agent.inference.worker_limits import WorkerLimits
    session = start_worker(Path(model), spec, WorkerLimits(), threads=2, clock=clock)
else:
    from edge_agent.inference.onnx_session import load_onnx_session
    session = load_onnx_session(Path(model), spec)

class Outbox:
    count = 0
    def append(self, body):
        Outbox.count += 1

active = ActiveModel(spec.model)
active.swap(LoadedRelease(spec.model, 1, "0" * 64, "fp32", session))
pipeline = Pipeline(
    PipelineSettings(name="camera", model=spec.model,
                     source=VideoSettings(path=video, pace=Pace.REALTIME, loop=True)),
    active, outbox=Outbox(), telemetry=TelemetrySettings(), slots=InferenceSlots(0), clock=clock)
pipeline.start()
time.sleep(4.0)
hand_back_memory()  # As the agent does, some seconds after a release changed
time.sleep(6.0)

def rollup(pid):
    rows = dict(line.split(":", 1) for line in
                Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {name: int(value.split()[0]) for name, value in rows.items()}
    mb = {name: value * 1024 / 1e6 for name, value in kib.items()}
    return {"rss_mb": round(mb["Rss"], 1), "pss_mb": round(mb["Pss"], 1),
            "uss_mb": round(mb["Private_Clean"] + mb["Private_Dirty"], 1)}

found = {"agent": rollup(os.getpid())}
if is_isolated == "1":
    found["worker"] = rollup(session.standing.pid)
found["uss_mb"] = round(sum(part["uss_mb"] for part in found.values()), 1)
pipeline.stop()
session.close()
print(json.dumps(found))
"""
)


def memory(case: Case) -> dict[str, object]:
    """Return the memory of one camera at the video's own pace, MB of 10^6 bytes, both ways."""
    spec = msgspec.json.encode(case.folded_spec).decode()
    found: dict[str, object] = {}
    for name, flag in (("isolated", "1"), ("in_process", "0")):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, case.folded, spec, case.video, flag],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
        )
        lines = done.stdout.splitlines()
        found[name] = json.loads(lines[-1]) if done.returncode == 0 else done.stderr[-300:]
    return found


def import_s(repeats: int = 5) -> float:
    """Return the seconds that importing the agent takes, Python's own start taken off."""

    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        return time.perf_counter() - started

    taken = [
        seconds(AS_ON_A_DEVICE + "import edge_agent.agent") - seconds("pass")
        for _ in range(repeats)
    ]
    return round(statistics.median(taken), 3)
