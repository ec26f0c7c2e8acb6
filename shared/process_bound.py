"""`python -m shared.process_bound PARENT MODULE [ARGUMENT...]`: MODULE, which ends with PARENT.

As `python -m MODULE [ARGUMENT...]`, but bound to the thread that started it before MODULE imports
anything; see process_parent.
"""

import runpy
import sys

from shared.process_parent import end_with_thread


def main(arguments: list[str]) -> None:
    """Become the module that the arguments name."""
    parent, module, *rest = arguments
    end_with_thread(int(parent))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
