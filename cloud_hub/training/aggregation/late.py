"""Late updates: what one is worth that comes after its Round was closed. Pure.

1. Its weight is divided by (1 + rounds late) ** exponent (polynomial staleness: Xie et al. 2019,
   FedAsync, section 5.2; the same discount in FedBuff, Nguyen et al. 2022).
2. A robust strategy refuses it: it compares updates of one and the same base; one of an older base
   lies apart from the others for no fault of its own, and would widen what passes as usual.
3. Under central privacy it is refused: its device could be in the same mean twice, and the noise
   is made for once.
"""

from cloud_hub.training.order import ROBUST, CentralPrivacy, LateSettings, Strategy
from shared.errors import RefusedError


def discount(
    rounds_late: int,
    settings: LateSettings,
    strategy: Strategy,
    *,
    privacy: CentralPrivacy | None = None,
) -> float:
    """Return what to multiply an update's weight with, 0..1.

    Raises RefusedError `late.robust`, `late.private`, `late.too_late`.
    """
    if rounds_late <= 0:
        return 1.0
    if isinstance(strategy, ROBUST):
        raise RefusedError(
            "late.robust", "A robust strategy compares updates of one Round; this one is late."
        )
    if privacy is not None:
        raise RefusedError(
            "late.private", "Under central privacy a device is in one mean once; this one is late."
        )
    if rounds_late > settings.rounds_max:
        raise RefusedError(
            "late.too_late", f"It is {rounds_late} Rounds late; at most {settings.rounds_max} are."
        )
    return float((1.0 + rounds_late) ** -settings.exponent)
