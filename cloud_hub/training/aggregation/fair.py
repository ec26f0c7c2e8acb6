"""q-FedAvg (Li et al. 2020, algorithm 2): devices with a high loss weigh more. Pure.

With an update u, its loss F and L = 1 / learning_rate, the paper's step
w - sum(L F^q (w - w_k)) / sum(q F^(q-1) |L (w - w_k)|^2 + L F^q) is a mean of updates with weight
L F^q and a divisor of its own; so it streams as any other mean does. Flower's QFedAvg adds 1e-10
to the loss; so does this. It trusts the loss a device tells; here `weight_share_max` bounds what a
lie can do: an update's weight and divisor are lowered together.
"""

import math

from cloud_hub.training.order import FairStrategy
from shared.errors import RefusedError

LOSS_ADDED = 1e-10
LOSS_MAX = 1e12


def fair_weight(strategy: FairStrategy, *, loss: float | None, norm: float) -> tuple[float, float]:
    """Return an update's weight and divisor. Raises RefusedError `update.loss`."""
    if loss is None or not math.isfinite(loss) or not 0.0 <= loss <= LOSS_MAX:
        raise RefusedError(
            "update.loss",
            "q-FedAvg weighs by the loss, and this update tells none that can be used.",
            remedy="Let the device tell its loss, or choose another strategy.",
        )
    lipschitz = 1.0 / strategy.learning_rate
    raised = loss + LOSS_ADDED
    weight = lipschitz * raised**strategy.q
    squared_norm = (lipschitz * norm) ** 2
    return weight, strategy.q * raised ** (strategy.q - 1.0) * squared_norm + weight
