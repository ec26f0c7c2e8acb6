"""Central noise, its accountant, and the accountant's figures beside published ones."""

import numpy as np
import pytest

from cloud_hub.training.aggregation.central_privacy import (
    Accountant,
    add_noise,
    clip_factor,
    noise_std,
    secret_generator,
)
from cloud_hub.training.order import CentralPrivacy
from shared.errors import ContractError
from shared.learning.rdp import epsilon_of, gaussian_cost

PRIVACY = CentralPrivacy(clip_norm=2.0, noise_multiplier=1.5, epsilon_max=10.0)


def test_noise_is_as_large_as_said() -> None:
    mean = np.zeros(400_000, np.float32)
    std = noise_std(PRIVACY, 10)
    assert std == pytest.approx(0.3)
    add_noise(mean, std, np.random.default_rng(0))
    assert mean.std() == pytest.approx(0.3, rel=0.01)
    assert abs(mean.mean()) < 0.003


def test_noise_is_new_every_time() -> None:
    assert secret_generator().integers(2**63) != secret_generator().integers(2**63)


def test_what_is_too_large_is_scaled_to_the_clip() -> None:
    assert clip_factor(1.9, 2.0) == 1.0
    assert clip_factor(2000.0, 2.0) == pytest.approx(1e-3)


def test_a_job_ends_before_its_budget_is_overrun() -> None:
    accountant = Accountant(PRIVACY)
    rounds = 0
    while not accountant.is_spent:
        accountant.charge()
        rounds += 1
    assert accountant.epsilon <= 10.0 < accountant.epsilon_after_next
    cost = gaussian_cost(1.5, releases=rounds)
    assert accountant.epsilon == pytest.approx(epsilon_of(cost, 1e-5))


def test_what_was_spent_survives() -> None:
    first, second = Accountant(PRIVACY), Accountant(PRIVACY)
    first.charge()
    second.restore(first.state())
    assert second.epsilon == first.epsilon > 0
    with pytest.raises(ContractError):
        second.restore({})


def test_one_gaussian_release_lies_between_exact_and_classic() -> None:
    # sigma 1, delta 1e-5: exact epsilon 4.3777 (Balle and Wang 2018, theorem 8), which no bound
    # may be under; Dwork and Roth's sqrt(2 ln(1.25 / delta)) is 4.845, Mironov's conversion 5.30.
    epsilon = epsilon_of(gaussian_cost(1.0), 1e-5)
    assert 4.3777 <= epsilon <= 4.845


def test_subsampled_releases_are_as_published() -> None:
    # TensorFlow Privacy's MNIST tutorial: 60,000 samples, batch 256, noise multiplier 1.1,
    # 60 epochs, delta 1e-5: epsilon 3.01 by Mironov's conversion; that of Canonne et al. is
    # tighter.
    cost = gaussian_cost(1.1, releases=60 * 60_000 // 256, sampling_rate=256 / 60_000)
    assert 2.5 <= epsilon_of(cost, 1e-5) <= 3.01


def test_sampling_is_worth_something_only_where_it_is_claimed() -> None:
    claimed = Accountant(PRIVACY, sampling_rate=0.1)
    assert claimed.charge() < Accountant(PRIVACY).charge()
