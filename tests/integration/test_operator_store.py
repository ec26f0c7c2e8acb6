"""Operators, sessions and the audit log on every database."""

import pytest

from cloud_hub.api import audit as audit_module
from cloud_hub.api.audit import AuditLog
from cloud_hub.api.operator_service import OperatorService
from cloud_hub.api.settings import ApiSettings
from cloud_hub.api.sql_store import Outcome
from cloud_hub.sql_database import Database
from shared.errors import RefusedError
from tests.support.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def operators(database: Database, clock: ManualClock) -> OperatorService:
    return OperatorService(database, settings=ApiSettings(session_hours=1), clock=clock)


def _code(error: pytest.ExceptionInfo[RefusedError]) -> str:
    return error.value.code


def test_the_first_token_works_and_is_made_once(operators: OperatorService) -> None:
    token = operators.create_first()
    assert token is not None
    assert operators.authenticate(token).name == "operator"
    assert operators.create_first() is None
    with pytest.raises(RefusedError) as caught:
        operators.authenticate(token[:-1])
    assert _code(caught) == "auth.token_wrong"


def test_a_session_lasts_its_hours(operators: OperatorService, clock: ManualClock) -> None:
    session = operators.log_in(operators.rotate("anna"), address="10.0.0.1")
    assert operators.resume(session.text).name == "anna"
    clock.advance(3599)
    assert operators.resume(session.text).name == "anna"
    clock.advance(1)
    with pytest.raises(RefusedError) as caught:
        operators.resume(session.text)
    assert _code(caught) == "auth.session_ended"


def test_a_token_is_no_session_and_a_session_no_token(operators: OperatorService) -> None:
    token = operators.rotate()
    session = operators.log_in(token, address="10.0.0.1")
    for attempt in (lambda: operators.resume(token), lambda: operators.authenticate(session.text)):
        with pytest.raises(RefusedError):
            attempt()


def test_rotating_one_operator_leaves_the_others(operators: OperatorService) -> None:
    anna, bert = operators.rotate("anna"), operators.rotate("bert")
    session = operators.log_in(bert, address="10.0.0.1")
    operators.rotate("anna")
    with pytest.raises(RefusedError):
        operators.authenticate(anna)
    assert operators.authenticate(bert).name == "bert"
    assert operators.resume(session.text).name == "bert"


def test_logging_out_ends_one_session(operators: OperatorService) -> None:
    token = operators.rotate()
    first = operators.log_in(token, address="10.0.0.1")
    second = operators.log_in(token, address="10.0.0.1")
    operators.log_out(first.text)
    operators.log_out(first.text)
    with pytest.raises(RefusedError):
        operators.resume(first.text)
    assert operators.resume(second.text).name == "operator"


def test_the_audit_log_tells_how_each_act_ended(database: Database, clock: ManualClock) -> None:
    audit = AuditLog(database, clock=clock)
    with audit.act("anna", "device.rename", "dev-1", "gate"):
        assert audit.entries(limit=1)[0].outcome is Outcome.STARTED
    with pytest.raises(RefusedError), audit.act("anna", "device.revoke", "dev-2"):
        raise RefusedError("device.unknown", "No.")
    audit.note("bert", "operator.login", "10.0.0.1", Outcome.OK)
    told = [(e.operator, e.action, e.subject, e.outcome, e.code) for e in audit.entries(limit=9)]
    assert told == [
        ("bert", "operator.login", "10.0.0.1", Outcome.OK, ""),
        ("anna", "device.revoke", "dev-2", Outcome.REFUSED, "device.unknown"),
        ("anna", "device.rename", "dev-1", Outcome.OK, ""),
    ]


def test_long_texts_are_cut_and_do_not_stop_the_act(database: Database, clock: ManualClock) -> None:
    audit = AuditLog(database, clock=clock)
    with audit.act("a" * 500, "b" * 500, "c" * 5000, "d" * 5000):
        pass
    entry = audit.entries(limit=1)[0]
    assert (len(entry.operator), len(entry.action), len(entry.subject)) == (63, 80, 200)


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b", "😀", "' OR 1=1 --"])
def test_any_text_can_be_written_down(database: Database, clock: ManualClock, text: str) -> None:
    audit = AuditLog(database, clock=clock)
    with audit.act("anna", "device.rename", text, text):
        pass
    assert audit.entries(limit=1)[0].outcome is Outcome.OK


def test_the_audit_log_is_bounded(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "ROWS_MAX", 5)
    monkeypatch.setattr(audit_module, "PRUNE_EVERY_ROWS", 4)
    audit = AuditLog(database, clock=clock)
    for number in range(20):
        with audit.act("anna", "act", str(number)):
            pass
    kept = [int(entry.subject) for entry in audit.entries(limit=100)]
    assert kept == list(range(19, 19 - len(kept), -1))
    assert 5 <= len(kept) <= 5 + 4
