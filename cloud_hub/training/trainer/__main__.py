"""`python -m cloud_hub.training.trainer --spec FOLDER/job.json`: one training run.

Under torchrun it is one of several processes of it. Exit codes: 0 done (RESULT is there), 4 refused
(ERROR is there, trying again would not help), anything else may be tried again.
"""

import argparse
import os
import sys
from pathlib import Path

from shared.logs import set_up_logging
from shared.quick_imports import quick_imports

with quick_imports():
    from cloud_hub.training.trainer.torch_run import run


def main(arguments: list[str] | None = None) -> int:
    """Carry out the run that the arguments name and return the exit code."""
    parser = argparse.ArgumentParser(prog="cloud_hub.training.trainer", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="FOLDER/job.json of the run")
    spec_path: Path = parser.parse_args(arguments).spec
    if os.environ.get("LOCAL_WORLD_SIZE", "1") == os.environ.get("WORLD_SIZE", "1"):
        # All on this machine: gloo would look the machine's own name up otherwise.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Read by cuBLAS when it starts; without it a deterministic run is refused by torch.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_up_logging()
    return run(spec_path.resolve(), os.environ)


if __name__ == "__main__":
    sys.exit(main())
