"""AuditLog: every act of an operator, written down before it is done and again when it ended.

1. An entry left at "started" says that the hub died in the middle of the act.
2. At most ROWS_MAX entries are kept; the oldest go first.
3. Never a secret: subject and detail hold names and numbers only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cloud_hub.api import sql_store
from cloud_hub.api.sql_store import AuditEntry, Outcome
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import IsthmusError

ROWS_MAX = 100_000
PRUNE_EVERY_ROWS = 1000


class AuditLog:
    """Who did what, when, and how it ended. Safe between threads."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @contextmanager
    def act(self, operator: str, action: str, subject: str, detail: str = "") -> Iterator[None]:
        """Write down the act that is done inside the `with`, and how it ended."""
        entry_id = self._start(operator, action, subject, detail)
        outcome, code = Outcome.FAILED, "hub.bug"  # What stands if anything else is raised.
        try:
            yield
            outcome, code = Outcome.OK, ""
        except IsthmusError as error:
            outcome, code = Outcome.REFUSED, error.code
            raise
        finally:
            with self._database.begin() as connection:
                sql_store.finish_entry(connection, entry_id, outcome, code=code)

    def note(
        self, operator: str, action: str, subject: str, outcome: Outcome, *, code: str = ""
    ) -> None:
        """Write down what is over already: a login, whose operator is known only then."""
        entry_id = self._start(operator, action, subject, "")
        with self._database.begin() as connection:
            sql_store.finish_entry(connection, entry_id, outcome, code=code)

    def entries(self, *, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        """Return the newest entries first, those with an id below `before` if given."""
        with self._database.read() as connection:
            return sql_store.read_entries(connection, limit=limit, before=before)

    def _start(self, operator: str, action: str, subject: str, detail: str) -> int:
        with self._database.begin() as connection:
            entry_id = sql_store.add_entry(
                connection,
                at_ms=now_ms(self._clock),
                operator=operator,
                action=action,
                subject=subject,
                detail=detail,
            )
            if entry_id % PRUNE_EVERY_ROWS == 0:
                sql_store.delete_entries_up_to(connection, entry_id - ROWS_MAX)
        return entry_id
