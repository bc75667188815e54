"""One bounded GET from a pod.

What a pod answers is not to be trusted: it may be slow, endless, compressed to a thousandth of its size, or a redirect
to somewhere else. So there is one deadline for everything, a limit on the bytes read, no decompression, no redirect,
no cookie, no proxy from the environment. A pod is dialled by its address, never by a name, and only at an address that
is a pod's: not at its node's, and at none that leads back to the operator's own machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import aiohttp

from finetune_operator.protocol import Object

MAX_HEAD_LINE_BYTES = 2048
"""Of the status line and of each header; there are at most 128 of them."""


def pod_url(pod: Object, port: int, path: str, *, on_loopback: bool = False) -> str | None:
    """Where a pod's agent is. None before the pod has an address, and when that is none to dial.

    `on_loopback`: pods are processes of this machine, with loopback addresses."""
    status = pod.get("status", {})
    ip = status.get("podIP")
    if not ip or pod.get("spec", {}).get("hostNetwork") or ip == status.get("hostIP"):
        return None
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback != on_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast:
        return None
    if mapped == ipaddress.IPv4Address("255.255.255.255") or getattr(address, "scope_id", None):
        return None
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{host}:{port}{path}"


class PodHttp:
    """Bounded GETs; a connection for each."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, limit: int, timeout: float, **options: Any) -> bytes | None:
        """The body of a 200; None when there is another answer, none within `timeout` seconds, or more than `limit`
        bytes. `options` go to aiohttp's request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=256, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                max_line_size=MAX_HEAD_LINE_BYTES,
                max_field_size=MAX_HEAD_LINE_BYTES,
            )
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.get(url, allow_redirects=False, **options) as response,
            ):
                return await _read(response, limit)
        except (OSError, ValueError, aiohttp.ClientError):
            return None

    async def close(self) -> None:
        """End all connections."""
        if self._session:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    if response.status != 200:
        return None
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)
