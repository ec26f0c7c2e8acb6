"""Whether an order can be carried out with the devices it chooses. Pure; names the field."""

from collections.abc import Collection, Sequence

from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.training.order import DEVICES_MAX, BulyanStrategy, JobOrder, KrumStrategy
from shared.errors import RefusedError
from shared.ids import DeviceId

NAMED_MAX = 5  # Devices named in one error


def check_checkpoint(order: JobOrder, checkpoint: Checkpoint | None) -> Checkpoint:
    """Return what an order starts from. Raises RefusedError."""
    if checkpoint is None:
        raise RefusedError(
            "job.no_checkpoint",
            f"checkpoint: there is none of {order.model} to start from.",
            remedy="Add one first: a network and, if there are, its weights.",
        )
    if checkpoint.model != order.model:
        raise RefusedError(
            "job.checkpoint_model",
            f"checkpoint: {checkpoint.checkpoint_id} is of {checkpoint.model}, not of "
            f"{order.model}.",
            remedy="Name a checkpoint of this model, or none for its newest.",
        )
    return checkpoint


def check_devices(
    order: JobOrder, chosen: Sequence[DeviceId], active: Collection[DeviceId]
) -> None:
    """Raise RefusedError if the devices of an order cannot carry it out.

    Args: chosen: the devices named, or those of the group. active: who belongs to the fleet.
    """
    _require_active("devices", order.devices, active)
    if not chosen:
        whom = f"group: {order.group}" if order.group else "devices: the fleet"
        raise RefusedError(
            "job.no_devices",
            f"{whom} has no devices.",
            remedy="Put devices into the group first, or name devices.",
        )
    if len(chosen) > DEVICES_MAX:
        raise RefusedError(
            "job.too_many_devices",
            f"devices: {len(chosen)} are chosen; a Job takes {DEVICES_MAX} at most.",
            remedy="Name a smaller group.",
        )
    if order.devices_min > len(chosen):
        raise RefusedError(
            "job.too_few_devices",
            f"devices_min: a Round would wait for {order.devices_min} devices, and only "
            f"{len(chosen)} are chosen.",
            remedy=f"Set devices_min to {len(chosen)} at most, or choose more devices.",
        )
    _require_active("mandatory", order.mandatory, chosen)
    _check_strategy(order, len(chosen))


def _require_active(field: str, named: Sequence[str], known: Collection[DeviceId]) -> None:
    missing = [device_id for device_id in named if device_id not in known]
    if not missing:
        return
    names = ", ".join(missing[:NAMED_MAX])
    if field == "mandatory":
        raise RefusedError(
            "job.mandatory",
            f"mandatory: {len(missing)} of these are not among the devices of the Job: {names}.",
            remedy="Leave them out, or choose them too.",
        )
    raise RefusedError(
        "job.device_not_active",
        f"{field}: {len(missing)} of these are unknown or revoked: {names}.",
        remedy="Leave them out.",
    )


def _check_strategy(order: JobOrder, count: int) -> None:
    """Krum needs 2f + 3 updates (Blanchard et al. 2017), Bulyan 4f + 3 (El Mhamdi et al. 2018)."""
    if not isinstance(order.strategy, KrumStrategy):
        return
    factor = 4 if isinstance(order.strategy, BulyanStrategy) else 2
    needed = factor * order.strategy.malicious_count + 3
    if count < needed:
        raise RefusedError(
            "job.too_few_devices",
            f"strategy: against {order.strategy.malicious_count} malicious devices it needs "
            f"{needed} updates in a Round, and only {count} devices are chosen.",
            remedy="Choose more devices, a smaller malicious_count, or fedmedian.",
        )
