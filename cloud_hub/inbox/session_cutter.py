"""SessionCutter: ending a device's live session, whichever broker holds it."""

from typing import Protocol

from shared.ids import DeviceId


class SessionCutter(Protocol):
    """Implementations: amqtt_broker.EmbeddedBroker, mosquitto_broker.ExternalBroker."""

    def cut(self, device_id: DeviceId) -> None:
        """End the device's live connection, if it has one; its last will is published.

        Call it after the device is marked as revoked, or it is back a second later. Raises
        TransientError `broker.cut` when the broker did not do it in time.
        """
        ...
