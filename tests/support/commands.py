"""Our command lines as a person types them: processes of their own, and what they said."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
SECONDS_MAX = 60.0
ANY_PORTS = ("--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
NOBODY = 65534
# The interpreter may lie where nobody else may look, so the rights go only when all is loaded.
AS_NOBODY = f"""
import importlib, os, sys
import tomllib  # msgspec loads it only when it reads a file.
main = importlib.import_module(sys.argv[1]).main
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.exit(main(sys.argv[2:]))
"""
PACKAGES = {"cloud-hub": "cloud_hub.__main__", "edge-agent": "edge_agent.__main__"}


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the JSON of the last line."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def told(self) -> str:
        """Return what it told a person of an error; fails on a traceback."""
        assert "Traceback" not in self.err, self.err
        return "\n".join(line for line in self.err.splitlines() if not line.startswith("{"))


def type_in(program: str, *words: object, env: dict[str, str] | None = None) -> Said:
    """Run a command to its end."""
    return _run([str(BIN / program), *map(str, words)], env)


def type_in_as_nobody(program: str, *words: object) -> Said:
    """Run a command to its end as a user that owns nothing here."""
    return _run([sys.executable, "-c", AS_NOBODY, PACKAGES[program], *map(str, words)], None)


def _run(command: list[str], env: dict[str, str] | None) -> Said:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
        env=os.environ | (env or {}),
    )
    return Said(done.returncode, done.stdout, done.stderr)


class Served:
    """`cloud-hub serve --json` with its greeting."""

    def __init__(self, state: Path, process: subprocess.Popen[str]) -> None:
        self.state = state
        self.process = process
        assert process.stdout is not None
        self._first = process.stdout.readline()
        self.greeting: dict[str, str | None] = json.loads(self._first or "{}")
        self.is_up = "dashboard_url" in self.greeting

    @property
    def url(self) -> str:
        """Return the dashboard's address."""
        return str(self.greeting["dashboard_url"])

    @property
    def local_token(self) -> str:
        """Return what clients on this machine show."""
        return (self.state / "run" / "local-token").read_text().strip()

    def client(self, *words: object) -> Said:
        """Run a client command against it."""
        return type_in("cloud-hub", *words, "--hub", self.url, "--state", self.state)

    def end(self, number: signal.Signals = signal.SIGTERM) -> Said:
        """Ask it to end, if it is up; return what it had said."""
        if self.is_up:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS_MAX)
        return Said(self.process.returncode, self._first + out, err)


@contextmanager
def serve(state: Path, *words: object, ports: tuple[str, ...] = ANY_PORTS) -> Iterator[Served]:
    """Run a hub until the end of the `with`; it has greeted, or ended."""
    command = [BIN / "cloud-hub", "serve", "--json", "--no-discovery", "--state", state, *ports]
    with subprocess.Popen(
        [str(word) for word in (*command, *words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Served(state, process)
        finally:
            if process.poll() is None:
                process.kill()
