"""An S3 server of its own process on loopback (moto's), with one bucket."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.http_streams import free_port
from tests.support.waiting import wait_until

BUCKET = "fleet"
REGION = "eu-central-1"
# Ends with whoever started it, however that ends: its standard input is closed then.
SERVE = """
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Return what makes an S3 client of a process find this server."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def new_place(self) -> str:
        """Return the URL of a folder in the bucket that nobody else uses."""
        return f"s3://{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """A server that lives as long as the test run."""
    server = S3Server(free_port())
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(server.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    try:
        wait_until(lambda: process.poll() is not None or _made_bucket(server), seconds_max=30)
        assert process.poll() is None, "the S3 server ended by itself"
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture
def s3_server(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, found by every S3 client of this process and those that it starts."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    return s3_process


def _made_bucket(server: S3Server) -> bool:
    scope = f"test/20260101/{REGION}/s3/aws4_request"
    signature = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none"
    try:
        answer = httpx.put(
            f"http://127.0.0.1:{server.port}/{BUCKET}",
            headers={"Authorization": signature},
            content=f"<CreateBucketConfiguration><LocationConstraint>{REGION}"
            "</LocationConstraint></CreateBucketConfiguration>",
        )
    except httpx.TransportError:
        return False
    return answer.is_success
