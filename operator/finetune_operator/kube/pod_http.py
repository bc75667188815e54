"""One bounded GET from a pod.

What a pod answers is not to be trusted: it may be slow, endless, compressed to a thousandth of its size, or a redirect
to somewhere else. So there is one deadline for everything, a limit on the bytes read, no decompression, no redirect,
no proxy from the environment, and a pod is dialled by its address, never by a name.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import aiohttp

from finetune_operator.protocol import Object


def pod_url(pod: Object, port: int, path: str) -> str | None:
    """Where a pod's agent is; None before the pod has an address."""
    ip = pod.get("status", {}).get("podIP")
    if not ip:
        return None
    address = ipaddress.ip_address(ip)
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
            connector = aiohttp.TCPConnector(limit=256, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False)
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.get(url, allow_redirects=False, **options) as response,
            ):
                return await _read(response, limit)
        except (OSError, aiohttp.ClientError):
            return None

    async def close(self) -> None:
        """End all connections."""
        if self._session:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    if response.status != 200:
        return None
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return body
