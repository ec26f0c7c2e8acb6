"""Rules of a Round and of its answers, as tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.training.answers import Question, read_measurements, read_reply
from cloud_hub.training.fleet import AskId
from cloud_hub.training.order import JobOrder, LateSettings, OnTooFew
from cloud_hub.training.round_rules import (
    AGAIN_S_MAX,
    ASKS_MAX,
    Asked,
    Next,
    Part,
    after_too_few,
    is_closable,
    is_enough,
    is_gathered,
    quorum_count,
    to_ask_again,
    ttl_s,
)
from cloud_hub.training.selection import choose
from shared.errors import ContractError
from shared.learning.task import LearningReply, TaskKind, encode_reply

names = st.sets(st.sampled_from("abcdefghij"), min_size=1)
DIGEST = "0" * 64


def _order(**fields: object) -> JobOrder:
    return JobOrder(model="m", **fields)  # type: ignore[arg-type]


def _asked(part: Part, *, asks: int = 1, connection: str = "1", asked_s: float = 0.0) -> Asked:
    return Asked(part, [AskId(n) for n in range(asks)], connection, asked_s)


def test_a_round_begins_when_enough_and_all_mandatory_are_there() -> None:
    order = _order(devices_min=2, mandatory=("c",))
    assert not is_gathered(order, {"c"})
    assert not is_gathered(order, {"a", "b"})
    assert is_gathered(order, {"a", "c"})


@pytest.mark.parametrize("part", Part)
def test_a_round_stays_open_for_those_who_may_still_answer(part: Part) -> None:
    asked = {"a": _asked(Part.ANSWERED), "b": _asked(part)}
    is_open = part in (Part.WAITED_FOR, Part.OUT_OF_REACH)
    assert is_closable(asked, now_s=1.0, deadline_s=2.0) is not is_open
    assert is_closable(asked, now_s=2.0, deadline_s=2.0)


@pytest.mark.parametrize(
    ("quorum", "asked_count", "needed"),
    [(0.5, 4, 2), (0.5, 5, 3), (0.0, 5, 1), (1.0, 5, 5), (0.1, 10, 1), (0.7, 10, 7), (0.5, 0, 1)],
)
def test_the_quorum_is_of_those_asked_and_never_none(
    quorum: float, asked_count: int, needed: int
) -> None:
    assert quorum_count(_order(quorum=quorum), asked_count) == needed


def test_a_round_without_a_mandatory_device_does_not_count() -> None:
    order = _order(quorum=0.5, mandatory=("c",))
    assert not is_enough(order, asked_count=3, counted={"a", "b"})
    assert is_enough(order, asked_count=3, counted={"a", "c"})


@pytest.mark.parametrize(
    ("on_too_few", "repeats_done", "expected"),
    [
        (OnTooFew.REPEAT, 0, Next.REPEAT),
        (OnTooFew.REPEAT, 2, Next.FAIL),
        (OnTooFew.END, 0, Next.END),
        (OnTooFew.FAIL, 0, Next.FAIL),
    ],
)
def test_what_follows_too_few(on_too_few: OnTooFew, repeats_done: int, expected: Next) -> None:
    order = _order(on_too_few=on_too_few, repeats_max=2)
    assert after_too_few(order, repeats_done=repeats_done) is expected


def test_one_who_comes_back_with_another_connection_is_asked_at_once() -> None:
    asked = {
        "back": _asked(Part.WAITED_FOR),
        "still": _asked(Part.WAITED_FOR, connection="2"),
        "away": _asked(Part.WAITED_FOR),
        "done": _asked(Part.ANSWERED),
        "refused": _asked(Part.REFUSED),
        "failed": _asked(Part.FAILED),
        "never": _asked(Part.OUT_OF_REACH, asks=0),
        "often": _asked(Part.OUT_OF_REACH, asks=ASKS_MAX),
    }
    present = dict.fromkeys(asked, "2")
    del present["away"]
    assert to_ask_again(asked, present, now_s=0.0) == ("back", "never")
    assert asked["away"].part is Part.OUT_OF_REACH


def test_the_same_connection_is_asked_again_with_growing_pauses() -> None:
    """A SuperLink that is away for two minutes must not use up a Round's questions."""
    one = _asked(Part.OUT_OF_REACH)
    times_s = []
    for tenth in range(20_000):
        now_s = tenth / 10
        if to_ask_again({"a": one}, {"a": "1"}, now_s=now_s):
            one.asks.append(AskId(0))
            one.asked_s = now_s
            times_s.append(now_s)
    assert len(times_s) == ASKS_MAX - 1
    assert times_s[:3] == [1.0, 3.0, 7.0]
    assert times_s[-1] >= 120.0
    assert times_s[-1] - times_s[-2] <= AGAIN_S_MAX


def test_a_question_outlives_the_deadline_only_where_late_answers_count() -> None:
    never = _order(deadline_s=100.0, late=LateSettings(rounds_max=0))
    assert 30.0 < ttl_s(never, left_s=30.0) < 60.0
    late = _order(deadline_s=100.0, late=LateSettings(rounds_max=2))
    assert ttl_s(late, left_s=30.0) >= 230.0


@given(names, names, st.floats(0.01, 1.0), st.integers(1, 8), st.integers(1, 5))
def test_who_is_asked(
    there: set[str], busy: set[str], fraction: float, devices_min: int, number: int
) -> None:
    order = _order(fraction=fraction, devices_min=devices_min, mandatory=("a",))
    chosen = choose(order, job="j", number=number, repeat=0, there=there, busy=busy)
    assert set(chosen) <= there
    assert ("a" in chosen) is ("a" in there)
    assert len(chosen) >= min(devices_min, len(there))
    assert len(chosen) <= max(math.ceil(fraction * len(there)), devices_min)
    assert chosen == choose(order, job="j", number=number, repeat=0, there=there, busy=busy)


def test_every_device_has_its_turn() -> None:
    order = _order(fraction=0.3, devices_min=1)
    there = {f"d{i}" for i in range(10)}
    seen = [set(choose(order, job="j", number=n, repeat=0, there=there)) for n in range(1, 31)]
    assert all(len(chosen) == 3 for chosen in seen)
    assert set.union(*seen) == there


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples_count", -1.0),
        ("samples_count", 1.5),
        ("samples_count", math.nan),
        ("samples_count", 1e18),
        ("held_out_count", math.inf),
        ("loss", -0.1),
        ("loss", math.nan),
        ("accuracy_before", 1.01),
        ("accuracy_after", -0.01),
        ("cpu_s", -1.0),
        ("runtime_s", math.inf),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ContractError) as caught:
        read_measurements({name: value})
    assert caught.value.code == "reply.measurement"
    assert name in caught.value.message


def test_measurements_of_other_names_are_left_out() -> None:
    told = {"samples_count": 3.0, "accuracy_before": 1.0, "loss": 0.0, "evil": math.nan}
    assert read_measurements(told) == {"samples_count": 3.0, "accuracy_before": 1.0, "loss": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "other"},
        {"round": 3},
        {"kind": TaskKind.EVALUATE},
        {"base_digest": "1" * 64},
    ],
)
def test_an_answer_to_another_question_is_refused(changes: dict[str, object]) -> None:
    question = Question("job", 2, TaskKind.TRAIN, DIGEST)
    fields: dict[str, object] = {
        "job": "job",
        "round": 2,
        "kind": TaskKind.TRAIN,
        "base_digest": DIGEST,
    }
    read_reply(encode_reply(LearningReply(**fields)), question)  # type: ignore[arg-type]
    with pytest.raises(ContractError) as caught:
        read_reply(
            encode_reply(LearningReply(**{**fields, **changes})),  # type: ignore[arg-type]
            question,
        )
    assert caught.value.code == "reply.misfit"


@pytest.mark.parametrize("text", ["", "{}", "[" * 50_000, "null", "x" * 200_000])
def test_an_answer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        read_reply(text, Question("job", 2, TaskKind.TRAIN, DIGEST))
    assert caught.value.code == "reply.invalid"
