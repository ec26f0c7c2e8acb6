"""WebhookSink: decisions as JSON to an HTTP address, in order, until it takes them.

1. One POST a decision: `{"device", "id", "decision"}`. The header Idempotency-Key is the same `id`,
   and the same when it is sent again: a receiver that was told twice can know.
2. The pipeline's thread only encodes and queues; past `queue_max` the oldest go, counted. The queue
   is memory only: what a restart must not lose goes to the hub, whose sink is on the disk.
3. One is out at a time, so the order is kept. 2xx is taken. 408, 429, 5xx and a broken connection
   are tried again, with backoff or after what `Retry-After` says (at most RETRY_AFTER_S_MAX), and
   hold up those behind. Any other answer drops that decision, counted: it would say the same again.
   A connection that the receiver closed while nothing was to be told is made anew: no trouble.
   An answer's text is of no interest; more than ANSWER_BYTES_MAX or `timeout_s` of it is cut off.
4. A redirect is such an answer: decisions and the token go to nobody but the address named.
5. What has waited for longer than `age_s_max` is dropped, counted.
6. No proxy of the environment is used. The token is read for every connection, so that a new one
   is taken up; neither it nor a decision is ever logged.
"""

import http.client
import logging
import secrets
import select
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.sinks.due import Due
from edge_agent.sinks.queued_sink import QueuedSink
from shared.backoff import Backoff
from shared.clock import Clock
from shared.link.ssl_client import make_client_tls
from shared.pipeline.sinks import WebhookSinkSettings

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.5, 60.0
RETRY_AFTER_S_MAX = 3600.0
ANSWER_BYTES_MAX = 1 << 16
TOKEN_CHARS_MAX = 4096
PASS_S = 0.5
CLOSE_S_MAX = 3.0
AGAIN_STATUSES = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class _Letter:
    """One decision on its way."""

    key: str
    body: bytes
    at_s: float  # Monotonic


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: str


class WebhookSink(QueuedSink[_Letter]):
    """See the rules above. Called by the pipeline's thread; owns one thread."""

    def __init__(self, settings: WebhookSinkSettings, *, device: str, clock: Clock) -> None:
        """Connect to nothing yet."""
        super().__init__(
            "webhook-sink", waiting_max=settings.queue_max, close_s_max=CLOSE_S_MAX, clock=clock
        )
        self.settings, self._device = settings, device
        url = urlsplit(settings.url)
        self._url = url
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._host = url.hostname or ""  # All of the address that is ever logged
        self._run_id = secrets.token_hex(8)  # Items are counted from 0 again after a restart
        self._count = 0
        self._due = Due(settings.which, settings.repeat_s)
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, result: ItemResult) -> None:
        """Queue `result` if it is a Decision that is due."""
        if not isinstance(result, Decision):
            return
        now_s = self._clock.monotonic_s()
        if not self._due.is_due(result, now_s=now_s):
            return
        self._count += 1
        key = f"{self._run_id}-{self._count}"
        body = msgspec.json.encode({"device": self._device, "id": key, "decision": result})
        self._put(_Letter(key, body, now_s))

    def take_over(self, before: "WebhookSink") -> None:
        """Go on with what `before`, of the same settings, has not told yet.

        What it is telling just now may be told twice, under the same key.
        """
        if before.settings == self.settings:
            self._put_first(before.hand_over())

    # The sink's own thread.

    def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(delay_s_min=RETRY_S_MIN, delay_s_max=RETRY_S_MAX)
        try:
            while not stop.is_set():
                letter = self._oldest()
                if letter is None:
                    self._wait(PASS_S)
                elif (again_s := self._deliver(letter, backoff)) is not None:
                    self._clock.wait(stop, again_s)
            self._finish(backoff)
        finally:
            self._disconnect()

    def _finish(self, backoff: Backoff) -> None:
        """Tell what is left, until the first that is not taken or the time is over."""
        until_s = self._clock.monotonic_s() + CLOSE_S_MAX
        while (letter := self._oldest()) is not None and self._clock.monotonic_s() < until_s:
            if self._deliver(letter, backoff) is not None:
                return

    def _oldest(self) -> _Letter | None:
        """Return what is to be told next, after dropping what is too old."""
        age_s_max, now_s = self.settings.age_s_max, self._clock.monotonic_s()
        with self._lock:
            while self._waiting and age_s_max and now_s - self._waiting[0].at_s > age_s_max:
                self._waiting.popleft()
                self._lost_count += 1
            return self._waiting[0] if self._waiting else None

    def _deliver(self, letter: _Letter, backoff: Backoff) -> float | None:
        """Try once. Return None if `letter` is done with, else after how long to try again."""
        try:
            answer = self._post(letter)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._disconnect()
            self._tell(str(error) or type(error).__name__)
            return backoff.next_delay_s()
        if 200 <= answer.status < 300:
            self._tell("")
            backoff.reset()
            self._done(letter, is_lost=False)
            return None
        self._tell(f"answered {answer.status}")
        if answer.status >= 500 or answer.status in AGAIN_STATUSES:
            asked_s = retry_after_s(answer.retry_after, now_s=self._clock.now_s())
            return max(backoff.next_delay_s(), asked_s)
        self._done(letter, is_lost=True)
        return None

    def _done(self, letter: _Letter, *, is_lost: bool) -> None:
        with self._lock:
            if self._waiting and self._waiting[0] is letter:  # Else it was pushed out, and counted
                self._waiting.popleft()
                self._lost_count += is_lost

    def _post(self, letter: _Letter) -> _Answer:
        """Send `letter`. Raises OSError, ValueError or HTTPException."""
        if self._connection is not None and _is_closed_there(self._connection):
            self._disconnect()
        connection = self._connection or self._connect()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": letter.key,
            "User-Agent": "isthmus",
        }
        if self.settings.token_file:
            headers["Authorization"] = f"Bearer {_token(self.settings.token_file)}"
        connection.request("POST", self._path, body=letter.body, headers=headers)
        with connection.getresponse() as response:
            is_whole = self._read_away(response)
            answer = _Answer(response.status, response.headers.get("Retry-After", ""))
            is_last = response.will_close
        if is_last or not is_whole:
            self._disconnect()
        return answer

    def _read_away(self, response: http.client.HTTPResponse) -> bool:
        """Take what an answer holds out of the connection; return whether that was all of it."""
        until_s, size = self._clock.monotonic_s() + self.settings.timeout_s, 0
        while size < ANSWER_BYTES_MAX and self._clock.monotonic_s() < until_s:
            piece = response.read1(ANSWER_BYTES_MAX)
            if not piece:
                return True
            size += len(piece)
        return False

    def _connect(self) -> http.client.HTTPConnection:
        host, timeout_s = self._url.hostname or "", self.settings.timeout_s
        if self._url.scheme == "https":
            ca_file = self.settings.ca_file
            tls = make_client_tls(ca_file) if ca_file else ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                host, self._url.port, timeout=timeout_s, context=tls
            )
        else:
            self._connection = http.client.HTTPConnection(host, self._url.port, timeout=timeout_s)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tell(self, reason: str) -> None:
        """Keep why it does not work; logged when it is another reason."""
        if reason and reason != self._standing:
            log.warning("webhook.failed", extra={"host": self._host, "detail": reason})
        elif self._standing and not reason:
            log.info("webhook.works", extra={"host": self._host})
        self._standing = reason


def _is_closed_there(connection: http.client.HTTPConnection) -> bool:
    """Return whether the receiver let go of a connection that waits: it has no more to say."""
    if connection.sock is None:
        return False
    poller = select.poll()
    poller.register(connection.sock, select.POLLIN)
    return bool(poller.poll(0))


def retry_after_s(text: str, *, now_s: float) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3); 0 if it is none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_S_MAX)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    wait_s = at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now_s
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def _token(path: str) -> str:
    """Return the token in the file `path`. Raises OSError or ValueError, which does not hold it."""
    token = Path(path).read_text("ascii", errors="replace").strip()
    if not token.isascii() or not token.isprintable() or not 0 < len(token) <= TOKEN_CHARS_MAX:
        raise ValueError("the token file holds no token: one line of printable ASCII")
    return token
