"""Whether a server speaks TLS: for messages about a connection that failed.

The probe sends a ClientHello without a certificate, verifies nothing and sends nothing else.
"""

from __future__ import annotations

import asyncio
import ssl

from kube_rewrap.config.library_errors import is_alert

_SECONDS = 1.0


async def serves_tls(host: str, port: int) -> bool:
    """Return whether the server at an address answers a TLS handshake, be it with a refusal; takes a second at most."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
            writer.transport.abort()
    except ssl.SSLError as error:
        return is_alert(error)
    except OSError:  # a TimeoutError, too
        return False
    return True
