"""A trainer that trains nothing: it obeys run_files.py, as the real one does, in milliseconds.

Its value is best at a learning rate of 0.1 and grows with each epoch. `play.json` in the folder of
all runs says what else happens, by the run's name or "*": see Play.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from cloud_hub.explain.report import Interval, Plot, Report
from cloud_hub.training.trainer import run_files as files
from cloud_hub.training.trainer.spec import TrainSpec
from shared.model.weights import decode_weights, digest_weights, encode_weights

PLAY = "play.json"
STEPS = 10  # Of an epoch
WAIT_S_MAX = 30.0


class Play(msgspec.Struct, frozen=True):
    """What a run does besides."""

    wait_at: int | None = None  # Epoch before which it waits for the file `go` in its folder
    die_at: int | None = None  # Epoch before which it kills itself, the first `deaths` times
    deaths: int = 1
    refuse: str = ""  # A code
    is_deaf: bool = False  # Neither `stop` nor SIGTERM ends it
    has_child: bool = False  # It starts a process that would live on
    strange_lines: int = 0
    words: str = ""  # Printed
    value_by_fold: tuple[float, ...] = ()
    is_torn_result: bool = False


def main() -> None:
    """Play the run of the spec on the command line."""
    path = Path(sys.argv[sys.argv.index("--spec") + 1])
    folder = path.parent
    spec = msgspec.json.decode(path.read_bytes(), type=TrainSpec)
    play = _play(folder)
    if play.is_deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write(play.words)
    sys.stdout.flush()
    if (folder / files.RESULT).exists():
        return
    with (folder / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    if play.refuse:
        error = files.RunError(play.refuse, "It does not fit.", "Make it fit.")
        (folder / files.ERROR).write_bytes(msgspec.json.encode(error))
        sys.exit(files.EXIT_REFUSED)
    if play.has_child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (folder / "child").write_text(str(child.pid))
    _train(folder, spec, play)


def _train(folder: Path, spec: TrainSpec, play: Play) -> None:
    epochs = int(spec.recipe.epochs)
    states = sorted(folder.glob("state-*.pt"))
    done = int(states[-1].read_text()) if states else 0
    _tell(
        folder,
        files.Started(
            at_ms=_now_ms(),
            resumed_step=done * STEPS if states else None,
            device="cpu: 1 thread",
            precision="fp32",
            processes=spec.processes,
            parameters_count=4,
            trained_count=4,
            items_by_part={"train": 8, "validation": 2},
            steps_total=epochs * STEPS,
        ),
    )
    with (folder / files.EVENTS).open("ab") as file:
        file.write(b"\xff{not an event\n" * play.strange_lines)
    is_stopped, value, started_s = False, 0.0, time.monotonic()
    for epoch in range(done + 1, epochs + 1):
        _meet(folder, play, epoch)
        if (folder / files.STOP).exists() and not play.is_deaf:
            is_stopped = True
            break
        value = _value(spec, play, epoch)
        step = epoch * STEPS
        _tell(
            folder,
            files.Progressed(
                at_ms=_now_ms(),
                step=step,
                epoch=float(epoch),
                loss=1.0 / epoch,
                learning_rate=spec.recipe.learning_rate,
                items_per_s=100.0,
                device_seconds=float(epoch - done),
                memory_bytes=1 << 20,
            ),
        )
        evaluated = files.Evaluated(
            _now_ms(), step, float(epoch), {"accuracy": value}, value, is_best=True
        )
        _tell(folder, evaluated)
        (folder / files.STATE_PATTERN.format(step=step)).write_text(str(epoch))
        _tell(folder, files.Saved(_now_ms(), step))
        done_now = epoch
    _finish(folder, spec, play, value=value, epochs=locals().get("done_now", done),
            is_stopped=is_stopped, seconds=time.monotonic() - started_s)  # fmt: skip


def _meet(folder: Path, play: Play, epoch: int) -> None:
    """Wait or die, as it is written."""
    if play.wait_at == epoch:
        deadline_s = time.monotonic() + WAIT_S_MAX
        while not (folder / "go").exists() and time.monotonic() < deadline_s:
            if (folder / files.STOP).exists() and not play.is_deaf:
                return
            time.sleep(0.005)
    starts = len((folder / "starts").read_text().split())
    if play.die_at == epoch and starts <= play.deaths:
        os.kill(os.getpid(), signal.SIGKILL)


def _value(spec: TrainSpec, play: Play, epoch: int) -> float:
    if play.value_by_fold and spec.data.folds_count:
        return play.value_by_fold[spec.data.fold]
    away = abs(np.log10(spec.recipe.learning_rate) + 1.0)
    return float(0.9 - 0.2 * away + 0.001 * epoch)


def _finish(
    folder: Path,
    spec: TrainSpec,
    play: Play,
    *,
    value: float,
    epochs: int,
    is_stopped: bool,
    seconds: float,
) -> None:
    start = folder / files.WEIGHTS
    weights = decode_weights(start.read_bytes()) if start.exists() else {}
    trained = {n: np.add(a, 1, dtype=a.dtype) for n, a in weights.items()}
    digest = digest_weights(trained)
    (folder / files.BEST).write_bytes(encode_weights(trained))
    report = Report(
        task="classification",
        part="test",
        dataset="tones",
        manifest=spec.data.manifest,
        weights_digest=digest,
        items_count=100,
        classes=("a", "b"),
        accuracy=Interval(value, value - 0.02, value + 0.02, 100),
        metrics={"f1_macro": value},
        plots=(Plot("confusion.png", "Confusion", "Two classes"),),
    )
    (folder / files.REPORT).write_bytes(msgspec.json.encode(report))
    (folder / "confusion.png").write_bytes(b"\x89PNG")
    result = files.RunResult(
        weights=files.BEST,
        weights_digest=digest,
        value=value,
        metrics={"accuracy": value},
        test_metrics={"accuracy": value},
        epochs=float(epochs),
        steps=epochs * STEPS,
        best_epoch=float(epochs),
        items_per_s=100.0,
        device="cpu: 1 thread",
        device_seconds=seconds,
        memory_bytes=1 << 20,
        is_stopped=is_stopped,
    )
    data = msgspec.json.encode(result)
    temporary = folder / ".result.tmp"
    temporary.write_bytes(data[:20] if play.is_torn_result else data)
    temporary.replace(folder / files.RESULT)


def _play(folder: Path) -> Play:
    path = folder.parent / PLAY
    if not path.exists():
        return Play()
    plays = msgspec.json.decode(path.read_bytes(), type=dict[str, Play])
    return plays.get(folder.name) or plays.get("*") or Play()


def _tell(folder: Path, event: files.Event) -> None:
    with (folder / files.EVENTS).open("ab") as file:
        file.write(files.encode_event(event))


def _now_ms() -> int:
    return int(time.time() * 1000)


if __name__ == "__main__":
    main()
