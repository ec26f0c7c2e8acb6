"""RoundStore on a real disk: what counts, what is bounded, and kills at every durable write."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_hub.training import order
from cloud_hub.training.aggregation.checks import UpdateChecks
from cloud_hub.training.aggregation.entry import Aggregate, Standing, UpdateEntry, Verdict
from cloud_hub.training.aggregation.file_round_store import RoundStore
from shared.errors import IntegrityError, RefusedError, TransientError
from shared.model.weights import Field, Layout

SIZE = 40
LAYOUT = Layout((Field("a", (SIZE,), 0),))
MEAN = order.MeanStrategy()
ROBUST: list[order.Strategy] = [
    order.MedianStrategy(),
    order.TrimmedStrategy(),
    order.KrumStrategy(),
    order.MultiKrumStrategy(),
]
numbered = itertools.count()


class PowerCutError(BaseException):
    """The machine stops here."""


def _store(folder: Path, strategy: order.Strategy = MEAN, **options: Any) -> RoundStore:
    checks = options.pop("checks", None) or UpdateChecks(
        options.pop("settings", order.CheckSettings()), privacy=options.get("privacy")
    )
    layout = options.pop("layout", LAYOUT)
    late = order.LateSettings()
    return RoundStore(folder, layout, strategy, checks=checks, late=late, **options)


def _entries(count: int, *, seed: int = 0, size: int = SIZE) -> list[UpdateEntry]:
    rng = np.random.default_rng(seed)
    return [
        UpdateEntry(
            f"d{i}",
            rng.standard_normal(size).astype(np.float32),
            samples_count=int(rng.integers(1, 300)),
            loss=1.0,
        )
        for i in range(count)
    ]


def _run(
    folder: Path, entries: Sequence[UpdateEntry], strategy: order.Strategy = MEAN, **options: Any
) -> tuple[Aggregate, list[Verdict]]:
    store = _store(folder, strategy, **options)
    store.restore()
    verdicts = [verdict for entry in entries for verdict in store.add(entry)]
    aggregate = store.close()
    return aggregate, [*verdicts, *aggregate.verdicts]


def _cut_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the step-th call by which something lasts on the disk the last one."""
    left = iter(range(step))

    def cut(name: str) -> None:
        original = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise PowerCutError
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "unlink"):
        cut(name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [MEAN, order.FairStrategy(), order.MedianStrategy()])
def test_a_kill_at_any_durable_write_changes_nothing(
    tmp_path: Path, strategy: order.Strategy
) -> None:
    entries = _entries(9)
    entries[1] = UpdateEntry("d1", entries[1].vector * np.float32(1e4), samples_count=50, loss=1.0)
    undisturbed, _ = _run(tmp_path / "calm", entries, strategy, folded_max=3)
    cuts = 0
    for step in range(1000):
        folder = tmp_path / str(step)
        with pytest.MonkeyPatch.context() as patch:
            _cut_at(patch, step)
            try:
                _run(folder, entries, strategy, folded_max=3)
                break
            except PowerCutError:
                cuts += 1
        resumed, verdicts = _run(folder, entries, strategy, folded_max=3)
        assert resumed.vector.tobytes() == undisturbed.vector.tobytes(), step
        assert resumed.devices == undisturbed.devices
        repeated = [v for v in verdicts if v.code == "update.repeated"]
        assert len(repeated) >= step // 12  # What was on the disk is there
    assert cuts > 27


def test_the_disk_is_bounded_for_means(tmp_path: Path) -> None:
    store = _store(tmp_path / "r", folded_max=4)
    store.restore()
    most = 0
    for entry in _entries(100):
        store.add(entry)
        most = max(most, len(list((tmp_path / "r").iterdir())))
    assert most <= 4 + 2 + 1 + 1  # Folded, reserve, the checkpoint, and one at hand
    assert len(store.close().devices) == 100
    store.discard()
    assert not (tmp_path / "r").exists()
    store.discard()


def test_robust_strategies_have_a_limit_of_bytes(tmp_path: Path) -> None:
    _, verdicts = _run(tmp_path, _entries(6), order.MedianStrategy(), spool_bytes_max=5 * SIZE * 4)
    assert [v.code for v in verdicts if v.standing is Standing.REFUSED] == ["update.no_room"]


def test_a_full_disk_refuses_one_update_and_no_more(tmp_path: Path) -> None:
    entries = _entries(5)
    expected, _ = _run(tmp_path / "calm", entries)
    store = _store(tmp_path / "full")
    store.restore()
    for entry in entries[:4]:
        store.add(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", _no_space)
        with pytest.raises(TransientError):
            store.add(entries[4])
    assert store.devices_count == 4
    assert store.add(entries[4])[0].standing is Standing.ACCEPTED
    assert store.close().vector.tobytes() == expected.vector.tobytes()


def _no_space(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.restore()
    store.add(_entries(1)[0])
    path = next(tmp_path.glob("*.update"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="cannot be read back"):
        _store(tmp_path).restore()


def test_the_same_device_twice_counts_once(tmp_path: Path) -> None:
    entries = _entries(4)
    aggregate, verdicts = _run(tmp_path, [*entries, entries[0]])
    assert len(aggregate.devices) == 4
    assert verdicts[-1].code == "update.repeated"


def test_a_late_update_counts_for_less(tmp_path: Path) -> None:
    checks = order.CheckSettings(norm_max=1e3, weight_share_max=1.0)
    ones = np.ones(SIZE, np.float32)
    aggregate, _ = _run(
        tmp_path,
        [UpdateEntry("a", ones, 100), UpdateEntry("b", 3 * ones, 100, rounds_late=1)],
        settings=checks,
    )
    worth = 2**-0.5
    assert aggregate.vector[0] == pytest.approx((1 + 3 * worth) / (1 + worth))


def test_too_few_for_the_strategy_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        _run(tmp_path, _entries(4), order.KrumStrategy())
    assert caught.value.code == "round.too_few"


def test_under_central_privacy_all_are_clipped_and_weigh_alike(tmp_path: Path) -> None:
    privacy = order.CentralPrivacy(clip_norm=1.0, noise_multiplier=1e-6)
    big = np.zeros(SIZE, np.float32)
    big[0] = 1e4
    entries = [UpdateEntry("a", big, 10**9), UpdateEntry("b", np.zeros(SIZE, np.float32), 1)]
    aggregate, _ = _run(tmp_path, entries, privacy=privacy)
    assert aggregate.vector[0] == pytest.approx(0.5, abs=1e-4)
    assert 0 < np.abs(aggregate.vector[1:]).max() < 1e-4  # The noise is in


vectors = st.lists(
    st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=SIZE, max_size=SIZE
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(vectors, st.integers(3, 7), st.integers(0, 6), st.integers(-5, 10**15))
def test_one_attacker_moves_the_mean_by_no_more_than_the_bound(
    tmp_path: Path, numbers: list[float], honest_count: int, place: int, samples: int
) -> None:
    honest = _entries(honest_count, seed=honest_count)
    attack = UpdateEntry("evil", np.array(numbers, np.float32), samples_count=samples)
    clean, _ = _run(tmp_path / f"c{next(numbered)}", honest)
    dirty, _ = _run(tmp_path / f"d{next(numbered)}", [*honest[:place], attack, *honest[place:]])
    largest = max(float(np.linalg.norm(entry.vector)) for entry in honest)
    assert np.isfinite(dirty.vector).all()
    assert np.linalg.norm(dirty.vector) <= 0.5 * 8 * largest + largest
    if "evil" not in dirty.devices:
        np.testing.assert_allclose(dirty.vector, clean.vector, atol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.permutations(range(8)), st.sampled_from([MEAN, *ROBUST]))
def test_the_order_of_arrival_does_not_matter(
    tmp_path: Path, places: list[int], strategy: order.Strategy
) -> None:
    entries = _entries(8)
    straight, _ = _run(tmp_path / f"s{next(numbered)}", entries, strategy)
    shuffled, _ = _run(tmp_path / f"p{next(numbered)}", [entries[i] for i in places], strategy)
    np.testing.assert_allclose(shuffled.vector, straight.vector, atol=1e-6)
