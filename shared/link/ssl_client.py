"""The TLS context of a client: our authority, TLS 1.2 or newer, and no socket left behind."""

import ssl


def make_client_tls(ca_path: str) -> ssl.SSLContext:
    """Return a context that trusts only the authority in the file `ca_path`.

    The broker's name is checked, too. Raises OSError (ssl.SSLError is one).
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.sslsocket_class = _TlsSocket
    tls.load_verify_locations(ca_path)
    return tls


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that a failed handshake closes (paho would leave it to the collector)."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, or close and raise."""
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise
