"""SuperLinkStart: what the SuperLink's process is told when it starts, and the names of its files.

Beside wanted.json and standing.json (job_folder.py) its folder holds

    start.json       SuperLinkStart, written by the hub before each start; no secret is in it
    ports.json       Ports: where it listened last, so that it comes back where it is looked for
    state.db         Flower's own
    flwr/            Flower's home, in place of ~/.flwr
    superlink.log    its log, in LOG_BYTES_MAX; superlink.err what Python itself had to say
    superlink.lock   held while it runs
"""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings

START = "start.json"
PORTS = "ports.json"
DATABASE = "state.db"
FLOWER_HOME = "flwr"
LOG = "superlink.log"
ERRORS = "superlink.err"
LOCK = "superlink.lock"
SERVER_MODULE = "cloud_hub.training.flwr_server"
SERVER_LOG = "server.log"  # In a Job's folder: what its ServerApp prints
LOG_BYTES_MAX = 4 << 20  # Of superlink.log, twice: one old one is kept
SERVER_LOG_BYTES_MAX = 4 << 20  # A ServerApp's log is emptied when it is longer

Port = Annotated[int, Meta(ge=0, le=65535)]


class SuperLinkStart(Settings, frozen=True):
    """Where things are, and within which limits."""

    folder: str
    ca_path: str
    certificate_path: str
    key_path: str
    host: str
    port: Port
    connections_max: Annotated[int, Meta(ge=1, le=65_536)]
    server_module: Annotated[str, Meta(max_length=200)]  # What is run for each run


class Ports(Settings, frozen=True):
    """Where it listens."""

    device: Port
    loopback: Port
