"""The privacy ledger on a real disk: durable, signed, anchored, shared between processes."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.training.file_ledger import ANCHOR, Ledger, open_ledger
from edge_agent.training.node_files import LEDGER
from edge_agent.training.settings import PrivacySettings
from shared.errors import IntegrityError, RefusedError
from tests.support.waiting import wait_until

DIGEST = "a" * 64
PRIVACY = PrivacySettings()


def make_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def opened(state: Path, privacy: PrivacySettings = PRIVACY) -> Ledger:
    key_path = state / "identity" / "device.key"
    if not key_path.exists():
        make_key(key_path)
    return open_ledger(state / "learning", key_path, privacy)


def pay(ledger: Ledger, round_: int, *, job: str = "job-a", digest: str = DIGEST) -> float:
    return ledger.charge("digits", job, round_, 2.0, base_digest=digest)


def test_a_charge_lasts_and_is_paid_once(tmp_path: Path) -> None:
    first = pay(opened(tmp_path), 1)
    assert pay(opened(tmp_path), 1) == first == opened(tmp_path).epsilon("digits") > 0
    assert pay(opened(tmp_path), 2) > first
    assert opened(tmp_path).content().count == 2
    assert opened(tmp_path).epsilon("other") == 0


def test_what_could_average_the_noise_away_costs_again(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    costs = [pay(ledger, 1), pay(ledger, 1, digest="b" * 64), pay(ledger, 2), pay(ledger, 1)]
    assert costs == sorted(set(costs))
    assert ledger.content().account("digits").charges_count == 4


def test_a_spent_budget_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path, PrivacySettings(epsilon_max=3.0))
    with pytest.raises(RefusedError) as raised:
        pay_rounds(ledger, 100)
    assert raised.value.code == "budget.spent"
    assert 0 < ledger.epsilon("digits") <= 3.0


def test_a_ledger_that_is_not_the_newest_own_one_is_damaged(tmp_path: Path) -> None:
    ledger, path = opened(tmp_path), tmp_path / "learning" / LEDGER
    anchor = tmp_path / "identity" / ANCHOR
    pay(ledger, 1)
    old = path.read_bytes()
    pay(ledger, 2)
    pay(ledger, 3)
    new = path.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    pay(opened(other), 1)
    foreign = (other / "learning" / LEDGER).read_bytes()
    for bad in (old, new[:-9], b"", new.replace(b'"round":3', b'"round":4'), foreign):
        path.write_bytes(bad)
        assert_damaged(ledger)
    path.unlink()
    assert_damaged(ledger)
    path.write_bytes(new)
    assert ledger.content().count == 3
    anchor.unlink()
    assert_damaged(ledger)


def assert_damaged(ledger: Ledger) -> None:
    with pytest.raises(IntegrityError) as raised:
        ledger.content()
    assert raised.value.code == "ledger.damaged"
    with pytest.raises(IntegrityError):
        pay(ledger, 9)


def test_power_lost_between_ledger_and_anchor_loses_nothing(tmp_path: Path) -> None:
    ledger, anchor = opened(tmp_path), tmp_path / "identity" / ANCHOR
    pay(ledger, 1)
    before = anchor.read_bytes()
    pay(ledger, 2)
    after = anchor.read_bytes()
    anchor.write_bytes(before)
    assert ledger.content().count == 2
    pay(ledger, 2)  # Free; but before it may leave, the anchor has to know
    assert opened(tmp_path).content().count == 2
    assert anchor.read_bytes() != before
    assert len(anchor.read_bytes()) == pytest.approx(len(after), abs=8)


def test_another_key_is_refused_until_the_owner_adopts(tmp_path: Path) -> None:
    spent = pay(opened(tmp_path), 1)
    make_key(tmp_path / "identity" / "device.key")
    assert_damaged(opened(tmp_path))
    opened(tmp_path).adopt()
    assert opened(tmp_path).epsilon("digits") == spent


def wait_until_count(state: Path, least: int) -> None:
    wait_until(lambda: opened(state).content().count >= least, seconds_max=30)


def pay_rounds(ledger: Ledger, count: int) -> None:
    for round_ in range(1, count + 1):
        pay(ledger, round_)


def pay_many(state: Path, job: str, rounds: int) -> None:
    ledger = opened(state)
    for round_ in range(1, rounds + 1):
        pay(ledger, round_, job=job)


def test_two_processes_lose_no_charge(tmp_path: Path) -> None:
    opened(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=pay_many, args=(tmp_path, job, 15)) for job in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    assert opened(tmp_path).content().count == 30


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_ledger_that_counts_on(tmp_path: Path) -> None:
    opened(tmp_path)
    spawn, count = multiprocessing.get_context("spawn"), 0
    for life in range(4):
        process = spawn.Process(target=pay_many, args=(tmp_path, f"life-{life}", 10_000))
        process.start()
        wanted = count + 3 + life
        wait_until_count(tmp_path, wanted)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert opened(tmp_path).content().count >= wanted
        count = opened(tmp_path).content().count
    before = opened(tmp_path).epsilon("digits")
    assert pay(opened(tmp_path), 1, job="after") > before
    assert not list((tmp_path / "learning").glob(".*.tmp"))
