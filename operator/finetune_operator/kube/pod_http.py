"""Bounded GET requests to pods.

A pod's response is not trusted: it may be slow, endless, compressed to a thousandth of its size, or a redirect to
another host. So there is one deadline for the whole request and a limit on the bytes read, and responses are not
decompressed. Redirects, cookies and proxies from the environment are not used. A pod is contacted by its IP address,
never by a name, and not if that is its node's address or one that leads back to the operator's own machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import aiohttp

from finetune_operator.protocol import Object

MAX_HEAD_LINE_BYTES = 2048
"""The maximum number of bytes of the status line and of each header; there are at most 128 headers."""


def pod_url(pod: Object, port: int, path: str, *, on_loopback: bool = False) -> str | None:
    """Return the URL of a path at a pod's agent, or None if the pod has no address or one that must not be contacted.

    With `on_loopback`, pods are processes of this machine and have loopback addresses.
    """
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
    """Sends bounded GET requests, with a connection for each."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, limit: int, timeout: float, **options: Any) -> bytes | None:
        """Return the body of a response with status 200.

        Return None for any other response, for more than `limit` bytes, or if the response is not complete within
        `timeout` seconds. `options` are passed to aiohttp's request.
        """
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
        """Close all connections."""
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
