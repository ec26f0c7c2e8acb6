"""Headless Chromium, driven over its own debugging pipe: real pages, clicks and pictures.

Not by --dump-dom with a virtual time budget: virtual time stands still while a stream of events is
open, and our pages always hold one.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.requirements import require_program
from tests.support.waiting import wait_until

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
STOP_S_MAX = 10.0
READ_BYTES = 1 << 16


class Pipe:
    """What goes to a browser and comes from it, one message after another."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._pending = b""
        self._count = 0

    def send(self, message: Mapping[str, object]) -> int:
        """Send a message under a number of its own, and return that."""
        self._count += 1
        os.write(self._to, json.dumps({"id": self._count, **message}).encode() + b"\0")
        return self._count

    def read(self) -> dict[str, Any]:
        """Return the next message."""
        while b"\0" not in self._pending:
            data = os.read(self._from, READ_BYTES)
            assert data, "the browser is gone"
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)


class Page:
    """One page, with cookies and a cache of its own. Commands are those of the DevTools protocol.

    Of several pages of a browser one at a time is asked.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._session: str | None = None
        self.problems: list[str] = []  # Errors on the console, uncaught exceptions, CSP refusals
        self.expected: list[str] = []  # Parts of problems that a test brings about on purpose
        self._context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: object) -> dict[str, Any]:
        """Send one command and return its result."""
        answer = self._ask(method, params)
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def _ask(self, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        """Send one command and return the whole answer, whether done or refused."""
        message: dict[str, object] = {"method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        number = self._pipe.send(message)
        while True:
            answer = self._pipe.read()
            if answer.get("id") == number:
                return answer
            self._note(answer)

    def close(self) -> None:
        """Close it, and forget what it kept."""
        self._session = None  # The browser is asked, not the page
        self.command("Target.disposeBrowserContext", browserContextId=self._context)

    def resize(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Show the page in a window of this size, with light or dark colours preferred."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.run("window.wasHere = true")
        self.command("Page.navigate", url=address)
        self.wait_loaded()

    def wait_loaded(self) -> None:
        """Wait until another document than the present one stands, with its scripts run."""
        self.wait("!window.wasHere && document.readyState === 'complete'", seconds_max=30.0)

    def run(self, script: str) -> Any:
        """Return the value of a script."""
        return _value(self._ask("Runtime.evaluate", _evaluation(script)))

    def wait(self, script: str, *, seconds_max: float = 15.0) -> Any:
        """Return the first true value of a script."""

        def value() -> Any:
            answer = self._ask("Runtime.evaluate", _evaluation(script))
            # The document may go away while it is asked; the next one will answer.
            is_gone = "navigated or closed" in str(answer.get("error"))
            return None if is_gone else _value(answer)

        return wait_until(value, seconds_max=seconds_max)

    def text(self, selector: str = "body") -> str:
        """Return the visible text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def submit(self, selector: str) -> None:
        """Click what leads to another document, and wait for that."""
        self.run("window.wasHere = true")
        # Later, so that the answer comes before the document goes away.
        self.run(
            f"{{ const to = document.querySelector({json.dumps(selector)}); "
            "if (!to) throw new Error('nothing to click'); setTimeout(() => to.click()) }"
        )
        self.wait_loaded()

    def fill(self, selector: str, value: str) -> None:
        """Write into a field."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.value = {json.dumps(value)}")
        self.run(f"{element}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    def log_in(self, url: str, token: str, *, page: str = "/") -> None:
        """Log in as a person does, and show `page`."""
        self.open(f"{url}/login?next={page}")
        self.fill("input[name=token]", token)
        self.submit("form button")

    def picture(self, file: Path, *, is_whole: bool = True) -> None:
        """Write a picture of the page."""
        data = self.command("Page.captureScreenshot", captureBeyondViewport=is_whole)["data"]
        file.write_bytes(base64.b64decode(data))

    @property
    def surprises(self) -> list[str]:
        """Return the problems that the test did not expect."""
        return [p for p in self.problems if not any(part in p for part in self.expected)]

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") != self._session:
            return  # Of a page that was closed
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(json.dumps(params["entry"])[:500])


def _evaluation(script: str) -> dict[str, object]:
    return {"expression": script, "returnByValue": True, "awaitPromise": True}


def _value(answer: Mapping[str, Any]) -> Any:
    """Return what a script came to."""
    assert "error" not in answer, answer["error"]
    assert "exceptionDetails" not in answer["result"], answer["result"]
    return answer["result"]["result"].get("value")


class Browser:
    """A browser that was started; pages of it know nothing of each other."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    @contextmanager
    def open_page(self) -> Iterator[Page]:
        """Open a page that has seen nothing yet; close it at the end."""
        page = Page(self._pipe)
        try:
            yield page
        finally:
            page.close()


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a new profile, which takes a second; end all of it at the end."""
    program = require_program("chromium")
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()

    def arrange_pipes() -> None:
        # The browser expects them at 3 and 4; first out of the way of each other.
        high = [os.dup2(fd, 40 + i) for i, fd in enumerate((browser_reads, browser_writes))]
        for fd, wanted in zip(high, (3, 4), strict=True):
            os.dup2(fd, wanted)

    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        start_new_session=True,
        preexec_fn=arrange_pipes,
    )
    os.close(browser_reads)
    os.close(browser_writes)
    pipe = Pipe(we_write, we_read)
    try:
        yield Browser(pipe)
    finally:
        pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S_MAX)


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """Start a browser for one page alone."""
    with open_browser(profile) as browser, browser.open_page() as page:
        yield page
