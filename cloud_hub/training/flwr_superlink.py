"""The SuperLink's process: `python -m cloud_hub.training.flwr_superlink START_FILE`.

1. One app of Flower's, behind a Guard (flwr_access.py) on each of two TLS listeners: devices, and
   ServerApps on loopback. A steward (flwr_steward.py) in the main thread carries out what the hub
   wants.
2. The loopback port, and a device port that was not chosen, are remembered: ServerApps and devices
   outlive this process and look for the next one where the last one was.
3. It ends when the hub dies (its standard input closes) and leaves the ServerApps to the process
   that comes next; asked to end (SIGTERM) it ends them first. Killed at any instant it loses
   nothing: Flower's database is a file, and so is what is wanted.
4. The Control API's token and the SuperExec's secret are made at each start and never leave this
   process; the token of a task goes to its ServerApp alone.
"""

import logging
import logging.handlers
import os
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

from shared.quick_imports import quick_imports

with quick_imports():
    import msgspec
    from fastapi import FastAPI
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    from cloud_hub.tcp_door import raise_open_files_limit
    from cloud_hub.training.flwr_access import (
        FLEET_BODY_BYTES_MAX,
        FLEET_PATHS,
        SERVER_BODY_BYTES_MAX,
        SERVER_PATHS,
        Guard,
        TokenAuthn,
    )
    from cloud_hub.training.flwr_state import FlowerState
    from cloud_hub.training.flwr_steward import TICK_S, Steward
    from cloud_hub.training.process_servers import Access, Servers
    from cloud_hub.training.superlink_listeners import Listeners, bind
    from cloud_hub.training.superlink_start import (
        DATABASE,
        LOCK,
        LOG,
        LOG_BYTES_MAX,
        PORTS,
        Ports,
        SuperLinkStart,
    )
    from shared.clock import SystemClock
    from shared.durable_file import write_durably
    from shared.errors import IsthmusError, UnavailableError
    from shared.exit_codes import CONTRACT, DONE, USAGE, exit_code_of
    from shared.file_lock import FileLock, wait_for_lock
    from shared.logs import JsonFormatter

log = logging.getLogger("cloud_hub.training.flwr_superlink")  # Its name when it is run: __main__

LOOPBACK = "127.0.0.1"
SECRET_BYTES = 48
LOCK_S_MAX = 10.0  # How long the process before this one may take to end


class SuperLink:
    """One SuperLink on one folder."""

    def __init__(self, start: SuperLinkStart) -> None:
        """Open the database and bind both addresses. Raises UnavailableError `superlink.…`."""
        self._folder, self._start = Path(start.folder), start
        old = _read_ports(self._folder)
        device = bind(start.host, start.port) if start.port else _bind_again(start.host, old.device)
        loopback = _bind_again(LOOPBACK, old.loopback)
        ports = Ports(device=device.getsockname()[1], loopback=loopback.getsockname()[1])
        if ports != old:
            write_durably(self._folder / PORTS, msgspec.json.encode(ports), mode=0o600)
        app, state = make_app(start, str(self._folder / DATABASE))
        self._servers = Servers(self._folder, module=start.server_module)
        self._steward = Steward(
            self._folder,
            FlowerState(state),
            self._servers,
            device_port=ports.device,
            access=lambda token: Access(f"{LOOPBACK}:{ports.loopback}", start.ca_path, token),
        )
        self._listeners = Listeners(
            Path(start.certificate_path),
            Path(start.key_path),
            connections_max=start.connections_max,
        )
        self._listeners.add(
            Guard(
                app,
                paths=FLEET_PATHS,
                body_bytes_max=FLEET_BODY_BYTES_MAX,
                is_known=self._steward.is_known,
            ),
            device,
            is_open=True,
        )
        self._listeners.add(
            Guard(app, paths=SERVER_PATHS, body_bytes_max=SERVER_BODY_BYTES_MAX),
            loopback,
            is_open=False,
        )

    def serve(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. Raises UnavailableError `superlink.start`."""
        self._listeners.start()
        while not stop.is_set():
            if not self._listeners.is_alive:
                raise UnavailableError("superlink.start", "The SuperLink does not answer.")
            self._listeners.renew()
            self._steward.tick()
            stop.wait(TICK_S)

    def close(self, *, is_orderly: bool) -> None:
        """Stop answering; end the ServerApps too if this is in order."""
        if is_orderly:
            self._servers.end_all()
        self._listeners.stop()


def make_app(start: SuperLinkStart, database: str) -> tuple[FastAPI, LinkState]:
    """Return Flower's app, with secrets of its own for what nobody is let in to, and its state."""
    config = SuperLinkLifespanConfig(
        control_address=f"{LOOPBACK}:0",
        health_server_address=None,
        host=LOOPBACK,
        port=0,
        insecure=False,
        certificates=None,
        superexec_auth_secret=secrets.token_bytes(SECRET_BYTES),
        authn_plugin=TokenAuthn(secrets.token_urlsafe(SECRET_BYTES)),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=start.ca_path,
        ssl_certfile=start.certificate_path,
        ssl_keyfile=start.key_path,
        database=database,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    app = create_app(config, _NoLifespan)  # type: ignore[arg-type]  # asks for Flower's own class
    return app, app.state.linkstate_factory.state()


class _NoLifespan:
    """In place of Flower's: no gRPC servers, no SuperExec, nothing to start or stop."""

    def __init__(self, config: SuperLinkLifespanConfig, state_factory: LinkStateFactory) -> None:
        """Take what Flower gives."""


def main(arguments: list[str]) -> int:
    """Run until the hub says so or dies; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m cloud_hub.training.flwr_superlink START_FILE\n")
        return USAGE
    try:
        start = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=SuperLinkStart)
    except (OSError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{arguments[0]}: {error}\n")
        return CONTRACT
    os.umask(0o077)
    _set_up_logging(Path(start.folder))
    raise_open_files_limit()
    stop, told = threading.Event(), threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        told.set()
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=_watch_hub, args=(stop,), name="hub-watch", daemon=True).start()
    try:
        _run(start, stop, told)
    except IsthmusError as error:
        log.error("superlink.failed", extra={"code": error.code, "text": str(error)})
        sys.stderr.write(f"{error}\n")
        return exit_code_of(error)
    return DONE


def _run(start: SuperLinkStart, stop: threading.Event, told: threading.Event) -> None:
    folder = Path(start.folder)
    lock = wait_for_lock(lambda: _take(folder), SystemClock(), seconds_max=LOCK_S_MAX, stop=stop)
    try:
        superlink = SuperLink(start)
        log.info("superlink.started", extra={"pid": os.getpid()})
        try:
            superlink.serve(stop)
        finally:
            superlink.close(is_orderly=told.is_set())
            log.info("superlink.stopped", extra={"is_orderly": told.is_set()})
    finally:
        lock.release()


def _watch_hub(stop: threading.Event) -> None:
    """Set `stop` when the hub is gone: only it holds the other end of standard input."""
    while os.read(0, 4096):
        pass
    stop.set()


def _take(folder: Path) -> FileLock:
    return FileLock(
        folder / LOCK, code="superlink.running", holder=f"Another SuperLink runs with {folder}"
    )


def _read_ports(folder: Path) -> Ports:
    try:
        return msgspec.json.decode((folder / PORTS).read_bytes(), type=Ports)
    except (OSError, msgspec.DecodeError):
        return Ports(device=0, loopback=0)


def _bind_again(host: str, port: int) -> socket.socket:
    """Listen where it listened before, or anywhere if somebody else does by now."""
    try:
        return bind(host, port)
    except UnavailableError:
        log.warning("superlink.port_taken", extra={"port": port})
        return bind(host, 0)


def _set_up_logging(folder: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(
        folder / LOG, maxBytes=LOG_BYTES_MAX, backupCount=1
    )
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_without_values)
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    for name in ("cloud_hub", "shared"):
        logging.getLogger(name).setLevel(logging.INFO)
    flower = logging.getLogger("flwr")
    flower.handlers, flower.propagate = [], True  # It prints for people by itself
    flower.setLevel(logging.WARNING)


def _without_values(record: logging.LogRecord) -> bool:
    """Keep what was asked of the database, keys and tokens included, out of the log."""
    if isinstance(record.msg, dict):
        record.msg = f"flower.query_failed: {type(record.msg.get('exception')).__name__}"
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
