"""Doctor: what may keep this hub from its work, each finding with how to fix it.

Looks at the state folder and the machine; changes nothing, and works whether the hub runs or not.
What must not live here: printing.
"""

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from cryptography import x509

from cloud_hub.config import HubConfig, ListenSettings, parse_broker
from cloud_hub.hub import LOCK_NAME
from cloud_hub.releases.tuf_keys import OFFLINE
from cloud_hub.sql_database import FILE_NAME, Database, sqlite_url
from cloud_hub.training.service import NEEDED
from shared.clock import Clock
from shared.errors import IsthmusError
from shared.file_findings import look_at_disk, look_at_folder
from shared.file_lock import is_locked
from shared.findings import Finding, Level

DISK_BYTES_MIN = 2 << 30
CERTIFICATE_DAYS_MIN = 30
CONNECT_S_MAX = 3.0


def examine(state: Path, config: HubConfig, clock: Clock) -> Iterator[Finding]:
    """Yield one finding after the other, in the order in which they should be fixed."""
    folder = look_at_folder(state, made_by="`cloud-hub serve` makes it")
    yield folder
    if folder.level is Level.WARNING:  # There is nothing in it to look at.
        yield from _ports(config)
    if folder.level is not Level.GOOD:
        return
    is_running = is_locked(state / LOCK_NAME)
    yield _running(is_running=is_running)
    yield _guarded("offline keys", lambda: _offline_keys(state))
    yield _guarded("private keys", lambda: _private_keys(state))
    yield _certificate(state, clock)
    yield _database(state, config)
    yield look_at_disk(state, bytes_min=DISK_BYTES_MIN)
    if config.broker:
        yield _broker(config)
    yield _learning()
    if not is_running:
        yield from _ports(config)


def _guarded(topic: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except OSError as error:
        return Finding(
            topic,
            Level.BAD,
            f"Cannot look at {error.filename}: {error.strerror}.",
            "Run as the user that runs the hub.",
        )


def _running(*, is_running: bool) -> Finding:
    if not is_running:
        return Finding("hub", Level.WARNING, "It does not run.", "cloud-hub serve")
    return Finding("hub", Level.GOOD, "It runs; `cloud-hub status` says how its parts are.")


def _offline_keys(state: Path) -> Finding:
    folder = state / "keys" / OFFLINE
    if any(folder.glob("*.pem")):
        return Finding(
            "offline keys",
            Level.WARNING,
            "The keys that sign who may sign releases lie on this machine.",
            f"Move {folder}/*.pem onto something that is not on the network; the hub needs them "
            "only to change keys.",
        )
    return Finding("offline keys", Level.GOOD, "not on this machine")


def _private_keys(state: Path) -> Finding:
    keys = [*(state / "pki").glob("*.key"), *(state / "keys").rglob("*.pem")]
    loose = [key for key in keys if key.stat().st_mode & 0o077]
    if loose:
        names = " ".join(str(key) for key in loose)
        return Finding(
            "private keys", Level.BAD, "Other users can read some of them.", f"chmod 600 {names}"
        )
    return Finding("private keys", Level.GOOD, f"{len(keys)}, readable by this user only")


def _certificate(state: Path, clock: Clock) -> Finding:
    path = state / "pki" / "server.crt"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return Finding(
            "server certificate",
            Level.BAD,
            f"{path} cannot be read: {error}.",
            "Remove it; the hub makes a new one when it starts.",
        )
    left = certificate.not_valid_after_utc - datetime.fromtimestamp(clock.now_s(), UTC)
    if left.days < CERTIFICATE_DAYS_MIN:
        return Finding(
            "server certificate",
            Level.WARNING if left.days >= 0 else Level.BAD,
            f"It is good for {left.days} more days.",
            "Restart the hub: it makes a new one when it starts.",
        )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    told = ", ".join(str(name.value) for name in names)
    return Finding("server certificate", Level.GOOD, f"good for {left.days} days, for {told}")


def _database(state: Path, config: HubConfig) -> Finding:
    if not config.database and not (state / FILE_NAME).exists():
        return Finding("database", Level.WARNING, "There is none yet.", "cloud-hub serve")
    try:
        database = Database(config.database or sqlite_url(state))
        try:
            database.check()
        finally:
            database.close()
    except IsthmusError as error:
        return Finding("database", Level.BAD, error.message, error.remedy)
    return Finding("database", Level.GOOD, "answers")


def _broker(config: HubConfig) -> Finding:
    host, port = parse_broker(config.broker)
    try:
        socket.create_connection((host, port), timeout=CONNECT_S_MAX).close()
    except OSError as error:
        return Finding(
            "broker",
            Level.BAD,
            f"{host}:{port} cannot be reached: {error}.",
            "Start it, and let the hub through to it; deploy/mosquitto has its configuration.",
        )
    return Finding("broker", Level.GOOD, f"{host}:{port} answers")


def _learning() -> Finding:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return Finding(
            "learning",
            Level.WARNING,
            f"Devices cannot learn together with this hub: {' and '.join(missing)} missing.",
            'pip install "isthmus[hub,train]"',
        )
    return Finding("learning", Level.GOOD, f"{' and '.join(NEEDED)} are installed")


def _ports(config: HubConfig) -> Iterator[Finding]:
    wanted: list[tuple[str, ListenSettings]] = [("http", config.http), ("https", config.https)]
    if not config.broker:
        wanted.append(("mqtt", config.mqtt))
    if all(find_spec(name) is not None for name in NEEDED):
        learning = ListenSettings(host=config.learning.host, port=config.learning.port)
        wanted.append(("learning", learning))
    for name, address in wanted:
        topic = f"port {address.port}"
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                yield Finding(
                    topic,
                    Level.BAD,
                    f"It cannot be used for {name}: {error.strerror}.",
                    f"Stop what uses it, or name another with --{name} HOST:PORT.",
                )
                continue
        yield Finding(topic, Level.GOOD, f"free for {name}")
