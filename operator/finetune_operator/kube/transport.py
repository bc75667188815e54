"""JSON requests to the API server with `kubernetes.aio`, which handles configuration, credentials and TLS.

Reads are retried if the server is overloaded or fails (429, 5xx). Writes are retried only on 429, which the server
sends before it has done anything. A Retry-After header sets the delay, up to a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio import client, config

from finetune_operator.kube.errors import ConfigurationError, error_of, not_kubernetes, unreachable
from finetune_operator.protocol import Object

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30)
AT_ONCE = 100
"""The maximum number of concurrent requests: aiohttp's default limit on connections."""
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0)
"""Seconds until each retry; a Retry-After header takes precedence."""
LONGEST_RETRY_AFTER = 30.0
OVERLOADED = 429
USER_AGENT = f"finetune-operator/{version('finetune-operator')}"
SERVER_ERRORS = frozenset({500, 502, 503, 504})
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Query = Sequence[tuple[str, str]]


class Transport:
    """A connection to one API server."""

    def __init__(self, configuration: Any, namespace: str, at_once: int = AT_ONCE) -> None:
        self.namespace = namespace
        """The namespace that the context or the service account names."""
        self._api = client.ApiClient(_with_proxy_of_environment(configuration))
        self._api.user_agent = USER_AGENT
        self._refresh: asyncio.Task[None] | None = None
        self._free = asyncio.Semaphore(at_once)

    @classmethod
    async def connect(
        cls, kubeconfig: str | None = None, context: str | None = None, at_once: int = AT_ONCE
    ) -> Transport:
        """Connect with the given file, $KUBECONFIG, the pod's service account, or ~/.kube/config, in this order.

        Raises ConfigurationError if none of them exists or the chosen one cannot be used.
        """
        chosen = kubeconfig or os.environ.get("KUBECONFIG")
        inside = not chosen and not context and "KUBERNETES_SERVICE_HOST" in os.environ
        path = "the service account" if inside else _kubeconfig(chosen)
        try:
            return _of_the_pod(at_once) if inside else await cls._of_kubeconfig(path, context, at_once)
        except config.ConfigException as error:
            raise ConfigurationError(str(error)) from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        except (TypeError, KeyError, AttributeError) as error:  # the library does not validate the file
            raise ConfigurationError(f"{path} does not look like a kubeconfig") from error
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"{path} cannot be used: {' '.join(str(error).split())}") from error
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error

    @classmethod
    async def _of_kubeconfig(cls, path: str, context: str | None, at_once: int) -> Transport:
        configuration = client.Configuration()
        unnamed = configuration.host
        loader = await config.load_kube_config(path, context, configuration, persist_config=False)
        if configuration.host == unnamed:
            raise ConfigurationError(f"{path} names no server for its context")
        transport = cls(configuration, loader.current_context["context"].get("namespace", "default"), at_once)
        transport._refresh = asyncio.create_task(config.refresh_token(loader, configuration))
        return transport

    @property
    def host(self) -> str:
        """The URL of the API server."""
        return str(self._api.configuration.host)

    async def close(self) -> None:
        """Close all connections."""
        if self._refresh:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
        await self._api.close()

    async def request(
        self, method: str, path: str, query: Query = (), body: Object | None = None, content_type: str | None = None
    ) -> Object:
        """Send a request and return the JSON object of the response.

        Raises ApiError.
        """
        retried = {OVERLOADED, *SERVER_ERRORS} if method == "GET" else {OVERLOADED}
        delays = iter(RETRY_DELAYS)
        while True:
            try:
                async with self._free:
                    response = await self._send(method, path, query, body, content_type, REQUEST_TIMEOUT)
                    content = await response.read()
            except (OSError, aiohttp.ClientError, ValueError) as error:  # ValueError: invalid header in credentials
                raise unreachable(error) from error
            if response.status < 300:
                return _object(content, self.host)
            delay = next(delays, None)
            if response.status not in retried or delay is None:
                raise error_of(response.status, content)
            await asyncio.sleep(_retry_after(response) or delay)

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, query: Query, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a streaming response as an iterator over its lines.

        Raises ApiError, also if the stream breaks.
        """
        try:
            response = await self._send("GET", path, query, None, None, timeout)
            try:
                if response.status >= 300:
                    raise error_of(response.status, await response.read())
                yield _lines(response.content)
            finally:
                response.close()
        except (OSError, aiohttp.ClientError) as error:
            raise unreachable(error) from error

    async def target(self, path: str) -> tuple[str, dict[str, Any]]:
        """Return the URL and the aiohttp options (credentials, TLS, proxy) for a request that the caller sends."""
        _, url, headers, _, _ = await self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        settings = self._api.configuration
        options = {"headers": headers, "ssl": self._api.rest_client.ssl_context}
        options |= {"proxy": settings.proxy} if settings.proxy else {}
        options |= {"server_hostname": settings.tls_server_name} if settings.tls_server_name else {}
        return url, options

    async def _send(
        self,
        method: str,
        path: str,
        query: Query,
        body: Object | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type or "application/json"}
        request = await self._api.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        method, url, headers, body, _ = request
        answer = await self._api.call_api(method, url, headers, body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response


def _with_proxy_of_environment(configuration: Any) -> Any:
    """Set the proxy that the environment names in a configuration, and return it.

    It is looked up once here, because aiohttp would look for proxies and a .netrc file at every request, in a thread.
    """
    configuration.client_session_kwargs = {"trust_env": False}
    server = urlsplit(configuration.host)
    if not configuration.proxy and server.hostname and not proxy_bypass(server.hostname):
        configuration.proxy = getproxies().get(server.scheme)
    return configuration


def _of_the_pod(at_once: int) -> Transport:
    configuration = client.Configuration()
    config.load_incluster_config(client_configuration=configuration)
    return Transport(configuration, SERVICE_ACCOUNT_NAMESPACE.read_text().strip(), at_once)


def _object(content: bytes, host: str) -> Object:
    """Return the JSON object of a successful response.

    Raises ApiError if there is none, because a proxy or a login page may also answer with status 200.
    """
    with contextlib.suppress(ValueError):
        if isinstance(answer := json.loads(content), dict):
            return answer
    raise not_kubernetes(host)


def _kubeconfig(chosen: str | None) -> str:
    path = chosen or str(Path("~/.kube/config").expanduser())
    if not any(Path(part).is_file() for part in path.split(os.pathsep)):
        raise ConfigurationError(f"there is no kubeconfig at {path}")
    return path


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), LONGEST_RETRY_AFTER) if value.isdecimal() else None


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of any length, with their line ends; aiohttp's own iterator refuses long lines."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
