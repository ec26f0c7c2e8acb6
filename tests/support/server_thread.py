"""A real uvicorn server in a thread of the test's process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from tests.support.waiting import wait_until

STOP_S_MAX = 10.0


@contextmanager
def serve_in_thread(
    server: uvicorn.Server, *, before_stop: Callable[[], None] | None = None
) -> Iterator[int]:
    """Run `server` until the end of the `with`; give its port."""
    thread = threading.Thread(target=server.run, name="http-server")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        if before_stop is not None:
            before_stop()
        server.should_exit = True
        thread.join(STOP_S_MAX)
        assert not thread.is_alive(), "the server did not stop"
