"""A program of ours, loaded once and forked for every command.

Each command is a process of its own with its own output, signals and end, as when a person types
it; only the seconds in which Python loads the program's modules are spent once. That the installed
command itself starts is what tests.support.commands.type_in is for.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from tests.support.commands import PACKAGES, SECONDS_MAX, Said


class LoadedProgram:
    """One that waits for commands."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        self._server = server

    def type(self, *words: object) -> Said:
        """Run a command to its end; one that takes too long is ended by SIGALRM."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            order = {"words": [str(word) for word in words], "out": str(out), "err": str(err)}
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return Said(code, out.read_text(), err.read_text())


@contextmanager
def loaded_program(name: str) -> Iterator[LoadedProgram]:
    """Load `cloud-hub` or `edge-agent` until the end of the block."""
    command = [sys.executable, "-m", "tests.support.loaded_program", PACKAGES[name]]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # A fork takes one thread with it
    ) as server:
        try:
            yield LoadedProgram(server)
        finally:
            assert server.stdin is not None
            server.stdin.close()


def main() -> None:
    """Answer each order on standard input with the exit code of what it asks for."""
    program = import_module(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be(order)
            sys.exit(program.main(order["words"]))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be(order: dict[str, object]) -> None:
    """Take the command's standard streams."""
    for number, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(str(path), flags, 0o600), number)
    signal.alarm(int(SECONDS_MAX))


if __name__ == "__main__":
    main()
