"""A real HTTPS server in a thread, for tests of what talks to the hub."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tests.support.waiting import wait_until


@contextmanager
def serve_https(
    app: FastAPI, *, certificate: Path, key: Path, host: str = "127.0.0.1"
) -> Iterator[int]:
    """Serve `app` on a free port of `host`; give the port; end the server at the end."""
    config = uvicorn.Config(
        app,
        host=host,
        port=0,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="https-server")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
