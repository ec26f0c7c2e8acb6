"""Under which names and addresses this machine can be reached, as far as it knows itself."""

import ipaddress
import socket

import ifaddr

HOSTS_MAX = 64


def local_hosts() -> tuple[str, ...]:
    """Return this machine's names and addresses, "localhost" and the loopback ones included.

    IPv6 addresses of one link only (fe80::) are left out: a certificate cannot hold their scope.
    """
    hosts = ["localhost", "127.0.0.1", "::1"]
    host_name = socket.gethostname()
    if host_name.isascii() and host_name:
        hosts += [host_name, host_name if host_name.endswith(".local") else f"{host_name}.local"]
    hosts += local_addresses()
    return tuple(dict.fromkeys(hosts))[:HOSTS_MAX]


def local_addresses() -> tuple[str, ...]:
    """Return the addresses of this machine's network cards, IPv4 first."""
    addresses = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(text)
            if not address.is_link_local:
                addresses.append(address)
    return tuple(str(a) for a in sorted(set(addresses), key=lambda a: (a.version, int(a))))
