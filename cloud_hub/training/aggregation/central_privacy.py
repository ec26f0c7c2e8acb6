"""Central differential privacy: noise on the mean of a Round, and what the Rounds have cost.

Pure but for the seed of the noise, which comes from the operating system.

1. Devices clip their updates to L2 norm `clip_norm`; the hub scales down whatever is larger, so
   the bound holds against devices that do not. All weigh alike, late updates are refused: one
   device changes the sum of a Round by at most `clip_norm` (neighbours: its update there, or zeros
   in its place; how many answered, and who, is not protected).
2. The mean of n gets noise of standard deviation noise_multiplier * clip_norm / n on every number,
   which is noise_multiplier * sensitivity on the sum (McMahan et al. 2018, "Learning
   Differentially Private Recurrent Language Models").
3. Cost: one Round is one release of the Gaussian mechanism in the RDP accountant. No discount for
   a `fraction` below 1 is claimed: selection here takes a fixed number out of those who happen to
   be there, which is not Poisson sampling, and who is there is not secret. `Accountant` takes a
   sampling rate for a selection that does draw each device alone.
4. Caveat: the noise is drawn as float64 from PCG64, seeded with 256 secret bits for each Round,
   and the sum is rounded to float32. Numbers of a computer are not the reals of the proof: their
   low bits can tell more than epsilon says (Mironov 2012, "On Significance of the Least Significant
   Bits"), and PCG64 is not a cipher. The rounding to float32 takes most of the low bits away; who
   has to withstand an attack on these needs a discrete mechanism.
5. A release is paid for before its noise is drawn, and each time it is drawn: a Round that is
   closed again after a kill may hold other updates, and then is another release.
"""

import math
import secrets

import numpy as np

from cloud_hub.training.order import CentralPrivacy
from shared.errors import ContractError
from shared.learning.rdp import add, epsilon_of, gaussian_cost, no_cost
from shared.model.weights import Array, Vector

SEED_BITS = 256
CLIP_TOLERANCE = 1e-6  # Rounding of one that was clipped to the bound exactly
_BLOCK = 1 << 18  # Numbers of noise drawn at a time
_STATE_KEY = "privacy.rdp"


def secret_generator() -> np.random.Generator:
    """Return a generator nobody can foretell."""
    return np.random.default_rng(secrets.randbits(SEED_BITS))


def clip_factor(norm: float, clip_norm: float) -> float:
    """Return what to multiply an update with so that its norm is at most `clip_norm`, 0..1."""
    return 1.0 if norm <= clip_norm * (1.0 + CLIP_TOLERANCE) else clip_norm / norm


def noise_std(privacy: CentralPrivacy, devices_count: int) -> float:
    """Return the standard deviation of the noise on each number of a mean."""
    return privacy.noise_multiplier * privacy.clip_norm / devices_count


def add_noise(mean: Vector, std: float, generator: np.random.Generator) -> None:
    """Add Gaussian noise to each number, in place."""
    for start in range(0, mean.size, _BLOCK):
        part = mean[start : start + _BLOCK]
        part[:] = part + std * generator.standard_normal(part.size)


class Accountant:
    """What the Rounds of one Job have cost."""

    def __init__(self, privacy: CentralPrivacy, *, sampling_rate: float = 1.0) -> None:
        """Args: sampling_rate: chance of each device, only where each is drawn alone (rule 3)."""
        self._privacy = privacy
        self._one = gaussian_cost(privacy.noise_multiplier, sampling_rate=sampling_rate)
        self._spent = no_cost()

    @property
    def epsilon(self) -> float:
        """Return what has been spent, at the order's delta."""
        return epsilon_of(self._spent, self._privacy.delta)

    @property
    def epsilon_after_next(self) -> float:
        """Return what will have been spent after one more Round."""
        return epsilon_of(add(self._spent, self._one), self._privacy.delta)

    @property
    def is_spent(self) -> bool:
        """Return whether one more Round would go over `epsilon_max`."""
        limit = self._privacy.epsilon_max
        return limit is not None and self.epsilon_after_next > limit

    def charge(self) -> float:
        """Count one Round; return what has been spent. To be called before its noise is drawn."""
        self._spent = add(self._spent, self._one)
        return self.epsilon

    def charge_at_least(self, releases_count: int) -> None:
        """Count as many Rounds as were paid for, where a kill left fewer in the state."""
        paid = (releases_count * rdp for rdp in self._one)
        self._spent = tuple(max(pair) for pair in zip(self._spent, paid, strict=True))

    def state(self) -> dict[str, Array]:
        """Return all that a resumed Job needs, as arrays to put into one .npz."""
        return {_STATE_KEY: np.array(self._spent, np.float64)}

    def restore(self, state: dict[str, Array]) -> None:
        """Take up a state. Raises ContractError `privacy.misfit`."""
        spent = state.get(_STATE_KEY)
        if spent is None or spent.dtype != np.float64 or spent.shape != (len(self._one),):
            raise ContractError("privacy.misfit", "The state is of no accountant.")
        values = tuple(float(rdp) for rdp in spent)
        if any(math.isnan(rdp) or rdp < 0.0 for rdp in values):
            raise ContractError("privacy.misfit", "The state holds what no Round can have cost.")
        self._spent = values
