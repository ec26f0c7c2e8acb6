"""HubAnnouncer: makes the hub known on the local network, so that devices find it by themselves."""

import logging
import threading
from collections.abc import Sequence

from zeroconf import Error, InterfaceChoice, ServiceInfo, Zeroconf

from cloud_hub.devices.ifaddr_hosts import local_addresses
from shared.errors import TransientError
from shared.wire.announcement import SERVICE_TYPE, write_announcement

log = logging.getLogger(__name__)

LABEL_BYTES_MAX = 63  # RFC 1035, section 2.3.4


class HubAnnouncer:
    """Answers on the local network who asks for hubs, between `start` and `stop`."""

    def __init__(
        self,
        hub_name: str,
        *,
        port: int,
        ca_fingerprint: str,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        """Args: port: of HTTPS; interfaces: own addresses to answer on, by default all."""
        self._port = port
        self._ca_fingerprint = ca_fingerprint
        self._interfaces = interfaces
        # The digits keep two hubs with one name apart.
        suffix = f" {ca_fingerprint[:8]}"
        label = hub_name.replace(".", "-").encode()[: LABEL_BYTES_MAX - len(suffix)]
        self.label = label.decode(errors="ignore") + suffix
        self._zeroconf: Zeroconf | None = None

    def start(self) -> None:
        """Begin to answer. Not from a thread that runs an asyncio loop.

        Raises TransientError `discovery.unavailable`: the hub works without it.
        """
        addresses = self._interfaces or local_addresses()
        service = ServiceInfo(
            SERVICE_TYPE,
            f"{self.label}.{SERVICE_TYPE}",
            port=self._port,
            properties=write_announcement(self._ca_fingerprint, port=self._port),
            server=f"isthmus-{self._ca_fingerprint[:8]}.local.",
            parsed_addresses=list(addresses),
        )
        try:
            choice = list(self._interfaces) if self._interfaces else InterfaceChoice.All
            self._zeroconf = Zeroconf(interfaces=choice)
            self._zeroconf.register_service(service, allow_name_change=True)
        except (OSError, Error) as error:
            self.stop()
            raise TransientError(
                "discovery.unavailable",
                f"The hub cannot make itself known on the local network: {error}.",
                remedy="Devices can still join by the hub's address.",
            ) from error
        log.info("discovery.announced", extra={"port": self._port, "addresses": list(addresses)})

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop` is set: for a worker, since `start` takes two seconds.

        A hub without a local network says so once in the log and goes on.
        """
        try:
            self.start()
        except TransientError as error:
            log.warning("discovery.unavailable", extra={"reason": error.message})
            return
        stop.wait()
        self.stop()

    def stop(self) -> None:
        """Say goodbye and end."""
        if self._zeroconf is not None:
            self._zeroconf.close()
            self._zeroconf = None
