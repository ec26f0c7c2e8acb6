"""Wave sizes: how they are written, and whom they reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.rollouts.waves import (
    DEFAULT_WAVES,
    WaveSize,
    check_waves,
    parse_wave,
    sort_devices,
    wave_limits,
    wave_of,
)
from shared.errors import ContractError
from shared.ids import DeviceId, RolloutId

COUNTS = st.integers(1, 10_000).map(lambda count: WaveSize(count=count))
SHARES = st.integers(1, 1_000_000).map(lambda share: WaveSize(share=share / 1_000_000))


@pytest.mark.parametrize(
    ("waves", "devices", "limits"),
    [
        (("1", "25%", "100%"), 30, (1, 7, 30)),
        (("1", "25%", "100%"), 3, (1, 3)),  # A quarter of three adds nobody to the first one.
        (("1", "25%", "100%"), 1, (1,)),
        (("100%",), 5, (5,)),
        (("2", "4"), 4, (2, 4)),
        (("30%", "100%"), 10, (3, 10)),
        (("10", "50%", "100%"), 12, (10, 12)),
        (("1000000",), 3, (3,)),
    ],
)
def test_waves_reach_so_many_devices(
    waves: tuple[str, ...], devices: int, limits: tuple[int, ...]
) -> None:
    sizes = tuple(parse_wave(wave) for wave in waves)
    check_waves(sizes)
    assert wave_limits(sizes, devices) == limits


@pytest.mark.parametrize("text", ["", "0.5", "-1", "0", "0%", "101%", "x", "1e3", "٣", "10%%"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ContractError) as refused:
        check_waves((parse_wave(text),))
    assert refused.value.code == "rollout.waves"


@pytest.mark.parametrize(
    "waves",
    [
        (),
        ("2", "1"),
        ("50%", "25%", "100%"),
        ("1", "1", "100%"),
        tuple(str(count) for count in range(1, 22)),
    ],
)
def test_sizes_that_make_no_sense_in_any_fleet_are_refused(waves: tuple[str, ...]) -> None:
    with pytest.raises(ContractError) as refused:
        check_waves(tuple(parse_wave(wave) for wave in waves))
    assert refused.value.code == "rollout.waves"
    assert refused.value.remedy


def test_waves_that_do_not_reach_everyone_are_refused() -> None:
    with pytest.raises(ContractError, match="reaches 3 of 4 devices"):
        wave_limits((WaveSize(count=1), WaveSize(count=3)), 4)


@given(st.one_of(COUNTS, SHARES))
def test_a_size_is_written_as_it_is_read(size: WaveSize) -> None:
    again = parse_wave(str(size))
    assert again.count == size.count
    assert again.share == pytest.approx(size.share)


@given(st.lists(SHARES, max_size=5), st.integers(1, 500))
def test_waves_never_reach_more_than_their_share_and_rise(
    sizes: list[WaveSize], devices: int
) -> None:
    waves = (*sorted(sizes, key=lambda size: size.share or 0), WaveSize(share=1.0))
    limits = wave_limits(waves, devices)
    assert list(limits) == sorted(set(limits))
    assert limits[-1] == devices
    for limit in limits[:-1]:
        assert any(limit <= (size.share or 0) * devices + 1e-6 for size in waves)
    assert [wave_of(position, limits) for position in (0, devices - 1)] == [0, len(limits) - 1]


def test_the_default_is_a_canary_then_a_quarter_then_all() -> None:
    assert [str(wave) for wave in DEFAULT_WAVES] == ["1", "25%", "100%"]


def test_who_is_online_goes_first_and_the_canary_is_not_always_the_same() -> None:
    devices = [DeviceId(f"dev-{index}") for index in range(20)]
    online = set(devices[5:15])
    canaries = set()
    for number in range(10):
        order = sort_devices(devices, online=online, rollout_id=RolloutId(f"roll-{number}"))
        assert sorted(order) == sorted(devices)
        assert set(order[:10]) == online
        canaries.add(order[0])
    assert len(canaries) > 3
