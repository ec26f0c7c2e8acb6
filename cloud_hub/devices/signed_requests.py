"""SignedRequests: which device asks over HTTPS, told by its signature (wire/signed_request.py).

Cheap checks first. What must not live here: what a device may ask.
"""

from collections.abc import Mapping

from cloud_hub.devices.service import DeviceService
from shared.clock import Clock, now_ms
from shared.errors import RefusedError
from shared.ids import DeviceId
from shared.wire.signed_request import STALE_MS_MAX, proof_of, verify


class SignedRequests:
    """Safe to share between threads."""

    def __init__(self, devices: DeviceService, clock: Clock) -> None:
        """Args: devices: who belongs to the fleet, and with which key."""
        self._devices, self._clock = devices, clock

    def device_of(
        self, headers: Mapping[str, str], *, method: str, target: str, body: bytes
    ) -> DeviceId:
        """Return the device that signed a request.

        Raises ContractError `request.unsigned`; RefusedError `request.stale`, `device.unknown`,
        `device.revoked`; IntegrityError `request.signature`.
        """
        proof = proof_of(headers)
        device = DeviceId(proof.device)
        if abs(now_ms(self._clock) - proof.at_ms) > STALE_MS_MAX:
            raise RefusedError(
                "request.stale",
                f"The request was signed over {STALE_MS_MAX // 1000} s ago, or in the future.",
                remedy="Set the device's clock (timedatectl set-ntp true).",
            )
        verify(proof, self._devices.public_key(device), method, target, body)
        if not self._devices.is_active(device):
            raise RefusedError(
                "device.revoked",
                "This device has been put out of the fleet.",
                remedy="Join again with a new token: edge-agent join --again.",
            )
        return device
