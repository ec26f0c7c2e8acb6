"""What one more Round costs a device's privacy, and how many more there can be. Pure.

1. Local noise is the Gaussian mechanism, each Round one release without any discount for sampling
   (shared/learning/rdp.py, rule 1). Its divergence at order alpha is alpha x rho, with
   rho = 1 / (2 sigma^2) (zero-concentrated DP: Bun, Steinke 2016, proposition 1.6). So one number
   per model, the sum of rho, is the exact cost of every Round so far at every order, whichever
   orders an accountant of a later version looks at.
2. An update without noise has no finite cost: a budget cannot pay for it.
"""

from edge_agent.training.settings import PrivacySettings
from shared.learning.rdp import ORDERS, Rdp, add, epsilon_of, gaussian_cost


def rho_of(noise_multiplier: float) -> float:
    """Return what one release costs; noise_multiplier > 0."""
    if not noise_multiplier > 0.0:
        raise ValueError("noise_multiplier > 0")
    return 1 / (2 * noise_multiplier**2)


def cost_of_rho(rho: float) -> Rdp:
    """Return the cost at every order of releases whose rho add up to `rho`."""
    return tuple(order * rho for order in ORDERS)


def epsilon_after(spent: Rdp, noise_multiplier: float, *, delta: float) -> float:
    """Return the lifetime epsilon once one more release with this noise has left."""
    return epsilon_of(add(spent, gaussian_cost(noise_multiplier)), delta)


def affords(privacy: PrivacySettings, spent: Rdp, noise_multiplier: float) -> bool:
    """Return whether one more release with this noise stays within the owner's budget."""
    if privacy.epsilon_max is None:
        return True
    return epsilon_after(spent, noise_multiplier, delta=privacy.delta) <= privacy.epsilon_max
