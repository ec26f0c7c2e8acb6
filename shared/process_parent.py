"""Children that end with their parent, whatever ends it: nobody tidies up after a SIGKILL.

1. `end_with_thread`: the kernel kills this process when the *thread* ends that started it. At once
   and whatever this process does, but only for a thread that outlives its children.
2. `end_with_process`: a thread of this process watches the parent, and ends this one. For children
   of threads that may end before them.
3. `under_parent`: a module that runs under rule 1 before it imports anything; see process_bound.
4. Each finds out whether the parent went before it was called.
"""

import ctypes
import os
import select
import signal
import sys
import threading

BOUND = "shared.process_bound"
ORPHANED = 1  # The exit status of an orphan; nobody is left to read it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_thread(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; see rule 1.

    Args: parent: the process id of who started it, as they said.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(ORPHANED)


def end_with_process(parent: int) -> None:
    """Have this process end when the one that started it is gone; see rule 2.

    Args: parent: its process id, as they said.
    """
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(ORPHANED)
    if os.getppid() != parent:  # The id may be another's by now
        os._exit(ORPHANED)
    threading.Thread(target=_end_after, args=(descriptor,), name="parent", daemon=True).start()


def _end_after(descriptor: int) -> None:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll()
    os._exit(ORPHANED)  # Other threads may be within a model: nothing gentler ends them


def under_parent(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `python -m module` under rule 1, as a child of this thread."""
    return [sys.executable, "-m", BOUND, str(os.getpid()), module, *arguments]
