"""A hub that does nothing but let devices join: our own service and routes over real HTTPS."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from cloud_hub.api.enrolment import EnrolmentInfo, make_enrolment_router
from cloud_hub.api.errors import add_error_handlers, error_response
from cloud_hub.api.http_limits import BodyLimit
from cloud_hub.api.settings import ApiSettings
from cloud_hub.devices.service import DeviceService
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.sql_database import Database
from shared.clock import Clock, SystemClock
from tests.support.https_server import serve_https

ROOT = b'{"signed": "root"}'


@dataclass(frozen=True, slots=True)
class JoiningHub:
    """A running one."""

    devices: DeviceService
    authority: Authority
    host: str
    port: int

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"https://{self.host}:{self.port}"

    def token(self, *, ttl_s: int = 600) -> str:
        """Return a fresh join token."""
        return self.devices.create_token(ttl_s=ttl_s).text


@contextmanager
def run_joining_hub(
    database: Database,
    folder: Path,
    *,
    clock: Clock | None = None,
    host: str = "127.0.0.1",
    shown_ca_pem: str | None = None,
) -> Iterator[JoiningHub]:
    """Run one with its authority in `folder`/pki.

    Args: shown_ca_pem: what it introduces itself with, if it lies.
    """
    authority = Authority(folder / "pki", host_names=("localhost",))
    devices = DeviceService(database, authority, clock)
    info = EnrolmentInfo(
        ca_pem=shown_ca_pem or authority.ca_pem,
        broker_port=8883,
        hub_name="Test hub",
        hub_version="0.1.0",
    )
    app = FastAPI()
    add_error_handlers(app, lambda _request, error, status: error_response(error, status))
    app.add_middleware(BodyLimit, settings=ApiSettings())
    app.include_router(
        make_enrolment_router(devices, info, lambda: ROOT, clock=clock or SystemClock())
    )
    with serve_https(
        app,
        certificate=authority.server_certificate_path,
        key=authority.server_key_path,
        host=host,
    ) as port:
        yield JoiningHub(devices, authority, host, port)
