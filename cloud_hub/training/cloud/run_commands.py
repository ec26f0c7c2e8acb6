"""The command line of a run, by what it is for. Pure."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cloud_hub.training.cloud.cloud_job import RunKind
from cloud_hub.training.trainer.run_files import MODULE, SPEC

JOIN_MODULE = "cloud_hub.training.cloud.torch_ensemble"
AS_IT_IS = "--as-it-is"
TRAINER = ("-m", MODULE)


def command_of(
    kind: RunKind, folder: Path, *, processes: int, trainer: Sequence[str] = TRAINER
) -> tuple[str, ...]:
    """Return what is executed for a run; more than one process under torchrun."""
    spec = ("--spec", str(folder / SPEC))
    if kind is RunKind.JOIN:
        return (sys.executable, "-m", JOIN_MODULE, *spec)
    if kind is RunKind.EXPLAIN:
        return (sys.executable, "-m", JOIN_MODULE, *spec, AS_IT_IS)
    if processes == 1:
        return (sys.executable, *trainer, *spec)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return (sys.executable, *torchrun, "--max-restarts", "0", *trainer, *spec)
