"""Makes BEST and RESULT of a run's newest state: `python -m …trainer.torch_salvage FOLDER`.

What a run that was killed, timed out or refused had learned until its last state is worth more than
nothing. Nothing is trained here, and no dataset is read.

1. The newest state that can be read and has been evaluated counts; others are passed over.
2. RESULT says that the run was stopped, and that its weights come from a state. A RESULT that is
   there already stays.
3. The caller sees to it that no trainer works in the folder.
"""

import sys
from pathlib import Path

from shared.quick_imports import quick_imports

with quick_imports():
    import msgspec

    from cloud_hub.training.trainer.file_run_folder import RunFolder
    from cloud_hub.training.trainer.run_files import (
        BEST,
        EVENTS,
        Evaluated,
        Progressed,
        RunResult,
        decode_event,
    )
    from cloud_hub.training.trainer.spec import TrainSpec
    from cloud_hub.training.trainer.torch_states import RunState, read_state
    from shared.errors import ContractError, IsthmusError
    from shared.exit_codes import DONE, exit_code_of
    from shared.model.torch_networks import build_network
    from shared.model.weights import digest_weights, encode_weights
    from shared.release.digest import digest_of

EVENTS_TAIL_BYTES = 1 << 20  # In which an Event says how long an epoch is


def salvage(folder: RunFolder) -> bool:
    """Write what the newest state holds; return whether there was anything.

    Raises ContractError `training.spec`, RefusedError `disk.full`, TransientError.
    """
    if folder.has_result:
        return True
    spec = folder.read_spec()
    state = _newest(folder, spec)
    if state is None or state.best_value is None:
        return False
    share = _epochs_per_step(folder.path / EVENTS)
    names = build_network(spec.network, spec.model, seed=spec.seed).state_dict()
    weights = {name: state.best[name].cpu().numpy() for name in names}
    folder.write(BEST, encode_weights(weights))
    folder.write_result(
        RunResult(
            weights=BEST,
            weights_digest=digest_weights(weights),
            value=state.best_value,
            metrics=state.best_metrics,
            test_metrics={},
            epochs=share * state.step,
            steps=state.step,
            best_epoch=share * state.best_step,
            items_per_s=0.0,
            device="",
            device_seconds=state.device_seconds,
            memory_bytes=0,
            is_stopped=True,
            notes=(*state.notes, f"The run broke off; this is its state of step {state.step}."),
        )
    )
    return True


def _newest(folder: RunFolder, spec: TrainSpec) -> RunState | None:
    digest = digest_of(msgspec.json.encode(spec, order="deterministic"))
    for path in folder.states():
        try:
            state = read_state(path, spec_digest=digest)
        except ContractError:
            continue
        if state.best_value is not None:
            return state
    return None


def _epochs_per_step(events: Path) -> float:
    """Return what part of an epoch a step was, by the newest Event that says it; 0: none does."""
    try:
        with events.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - EVENTS_TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return 0.0
    for line in reversed(lines):
        event = decode_event(line)
        if isinstance(event, Progressed | Evaluated) and event.step:
            return event.epoch / event.step
    return 0.0


def main() -> int:
    """Do it for the folder named on the command line; return the exit code."""
    try:
        salvage(RunFolder(Path(sys.argv[1])))
    except IsthmusError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return exit_code_of(error)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
