"""Finding the hub on the local network: the one that the join token is for, and no other."""

import queue
import time
from collections.abc import Sequence

from zeroconf import (
    Error,
    InterfaceChoice,
    IPVersion,
    ServiceBrowser,
    ServiceInfo,
    ServiceListener,
    Zeroconf,
)

from shared.errors import ContractError, TransientError
from shared.wire.announcement import SERVICE_TYPE, read_announcement

WAIT_S = 6.0
RESOLVE_S = 2.0
NAMES_MAX = 256
ADDRESSES_MAX = 16


class _Listener(ServiceListener):
    """Queues the names of services; resolving them here would block zeroconf's own thread."""

    def __init__(self) -> None:
        self.names: queue.Queue[str] = queue.Queue(maxsize=NAMES_MAX)

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002  (theirs)
        """Note a service."""
        if not self.names.full():
            self.names.put_nowait(name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Note a service that has changed."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Nothing: who looks for a hub does not keep a list."""


def find_hub(
    ca_fingerprint: str, *, wait_s: float = WAIT_S, interfaces: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the URLs at which the hub with this CA certificate says that it answers; try each.

    Args: interfaces: own addresses to ask on, by default all.

    Raises TransientError `discovery.none`, `discovery.unavailable`.
    """
    try:
        choice = list(interfaces) if interfaces else InterfaceChoice.All
        zeroconf = Zeroconf(interfaces=choice)
    except (OSError, Error) as error:
        raise TransientError(
            "discovery.unavailable",
            f"This device cannot ask the local network: {error}.",
            remedy="Give the hub's address: edge-agent join https://HUB:8443 --token ...",
        ) from error
    try:
        return _find(zeroconf, ca_fingerprint, wait_s=wait_s)
    finally:
        zeroconf.close()


def _find(zeroconf: Zeroconf, ca_fingerprint: str, *, wait_s: float) -> tuple[str, ...]:
    listener = _Listener()
    browser = ServiceBrowser(zeroconf, SERVICE_TYPE, listener)
    others: set[str] = set()
    deadline_s = time.monotonic() + wait_s
    try:
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                name = listener.names.get(timeout=left_s)
            except queue.Empty:
                break
            service = zeroconf.get_service_info(SERVICE_TYPE, name, int(RESOLVE_S * 1000))
            urls = () if service is None else _urls(service, ca_fingerprint)
            if urls:
                return urls
            others.add(name)
    finally:
        browser.cancel()
    raise _none_found(others, wait_s)


def _urls(service: ServiceInfo, ca_fingerprint: str) -> tuple[str, ...]:
    """Return where the service answers, if it may be the hub we look for."""
    try:
        announcement = read_announcement(service.properties)
    except ContractError:
        return ()
    if not announcement.is_of(ca_fingerprint):
        return ()
    addresses = service.parsed_addresses(IPVersion.V4Only)
    addresses += [f"[{a}]" for a in service.parsed_addresses(IPVersion.V6Only)]
    return tuple(f"https://{a}:{announcement.port}" for a in addresses[:ADDRESSES_MAX])


def _none_found(others: set[str], wait_s: float) -> TransientError:
    if others:
        seen = ", ".join(sorted(name.removesuffix("." + SERVICE_TYPE) for name in others)[:5])
        message = f"The hub of this join token did not answer on the local network; seen: {seen}."
    else:
        message = f"No hub answered on the local network within {wait_s:.0f} seconds."
    return TransientError(
        "discovery.none",
        message,
        remedy="Check that both are on one network and that the hub runs; or give its address: "
        "edge-agent join https://HUB:8443 --token ...",
    )
