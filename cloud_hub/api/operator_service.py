"""OperatorService: who may tell the hub what to do. The rules are in operators.py."""

import os
import threading
from pathlib import Path

from cloud_hub.api import sql_store
from cloud_hub.api.operators import (
    FIRST_OPERATOR,
    LOCAL_OPERATOR,
    LOCAL_PREFIX,
    SESSION_PREFIX,
    TOKEN_PREFIX,
    LoginThrottle,
    Operator,
    Session,
    hash_secret,
    is_same_hash,
    new_secret,
)
from cloud_hub.api.settings import ApiSettings
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import RefusedError, UnavailableError

LOCAL_TOKEN_FILE = "run/local-token"  # noqa: S105  # A path in the hub's state folder, no secret.


class OperatorService:
    """Tokens and sessions of operators. Safe between threads."""

    def __init__(self, database: Database, *, settings: ApiSettings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._throttle = LoginThrottle(
            failures_max=settings.login_failures_max, window_s=settings.login_window_s
        )
        self._local_hash = ""

    def create_first(self) -> str | None:
        """Return the first operator's token if there is none yet: the only time it is seen."""
        text = new_secret(TOKEN_PREFIX)
        with self._database.begin() as connection:
            if sql_store.count_tokens(connection):
                return None
            sql_store.put_token(
                connection, FIRST_OPERATOR, hash_secret(text), created_ms=now_ms(self._clock)
            )
        return text

    def rotate(self, name: str = FIRST_OPERATOR) -> str:
        """Return a new token for operator `name`; the old one and its sessions end at once."""
        text = new_secret(TOKEN_PREFIX)
        with self._database.begin() as connection:
            sql_store.put_token(connection, name, hash_secret(text), created_ms=now_ms(self._clock))
            sql_store.delete_sessions_of(connection, name)
        return text

    def write_local_token(self, state: Path) -> Path:
        """Make a token for this life of the hub and write it where only its own user can read it.

        Raises UnavailableError `hub.state_unwritable`.
        """
        path = state / LOCAL_TOKEN_FILE
        text = new_secret(LOCAL_PREFIX)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # An older one may have looser rights.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(text + "\n")
        except OSError as error:
            raise UnavailableError(
                "hub.state_unwritable",
                f"Cannot write {path}: {error.strerror}.",
                remedy="Check who owns the state folder.",
            ) from error
        self._local_hash = hash_secret(text)
        return path

    def authenticate(self, token: str) -> Operator:
        """Return whose token this is. Raises RefusedError `auth.token_wrong`."""
        token_hash = hash_secret(token)
        if self._local_hash and is_same_hash(token_hash, self._local_hash):
            return Operator(LOCAL_OPERATOR)
        with self._database.read() as connection:
            name = sql_store.find_token(connection, token_hash)
        if name is None:
            raise RefusedError(
                "auth.token_wrong",
                "This operator token is not known.",
                remedy="Use the token printed at the hub's first start, or make a new one with "
                "`cloud-hub operator rotate` on the hub's machine.",
            )
        return Operator(name)

    def log_in(self, token: str, *, address: str) -> Session:
        """Return a new session for whoever holds `token`.

        Raises RefusedError `auth.token_wrong` or `auth.too_many_attempts`.
        """
        with self._lock:
            self._throttle.check(address, now_s=self._clock.monotonic_s())
        try:
            operator = self.authenticate(token)
        except RefusedError:
            with self._lock:
                self._throttle.failed(address, now_s=self._clock.monotonic_s())
            raise
        text = new_secret(SESSION_PREFIX)
        at_ms = now_ms(self._clock)
        expires_ms = at_ms + self._settings.session_hours * 3_600_000
        with self._database.begin() as connection:
            sql_store.delete_expired_sessions(connection, now_ms=at_ms)
            sql_store.put_session(
                connection, hash_secret(text), operator.name, expires_ms=expires_ms
            )
        return Session(text=text, operator=operator, expires_ms=expires_ms)

    def resume(self, session_text: str) -> Operator:
        """Return whose session this is. Raises RefusedError `auth.session_ended`."""
        with self._database.read() as connection:
            name = sql_store.find_session(
                connection, hash_secret(session_text), now_ms=now_ms(self._clock)
            )
        if name is None:
            raise RefusedError("auth.session_ended", "This login has ended.", remedy="Log in.")
        return Operator(name)

    def log_out(self, session_text: str) -> None:
        """End a session; ending it twice does no harm."""
        with self._database.begin() as connection:
            sql_store.delete_session(connection, hash_secret(session_text))
