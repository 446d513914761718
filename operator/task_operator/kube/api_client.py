"""Requests to the API server through the public ApiClient of `kubernetes.aio`."""

from __future__ import annotations

import json
import os
import ssl
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration

from task_operator.kube.kinds import MANAGER, Manifest

REQUEST_TIMEOUT_SECONDS = 30.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"


class ApiError(Exception):
    """An error response of the API server; status 0 if there was no response."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Login(kopf.ConnectionInfo):
    """Credentials for kopf's watches, with the same certificate checks as our own requests."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Return a context that checks chain, host name and dates, but not strictly RFC 5280.

        Since Python 3.13 the default rejects certificate authorities without a key usage
        extension. Kubernetes does not require that extension, and many clusters lack it.
        """
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class KubeApi:
    """Requests to the API server, by path."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls) -> KubeApi:
        """Load the credentials of the pod, or those of KUBECONFIG outside a cluster.

        Raise kubernetes.aio.config.ConfigException if there are neither.
        """
        configuration = Configuration()
        configuration.disable_strict_ssl_verification = True  # see Login
        if os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
            await kubernetes_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        client = ApiClient(configuration)
        client.user_agent = MANAGER
        return cls(client)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def login(self) -> kopf.ConnectionInfo:
        """Return the same credentials for kopf's watches."""
        configuration = self._client.configuration
        bearer = (await configuration.auth_settings()).get("BearerToken") or {}
        scheme, _, token = str(bearer.get("value") or "").partition(" ")
        return Login(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme.capitalize() or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> Manifest:
        """Send a request and return the response as JSON.

        Raise ApiError for an error response, and if there is no response.
        """
        call = await self._client.param_serialize(
            method,
            path,
            query_params=query,
            header_params={"Accept": "application/json, */*;q=0.5", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
        try:
            response = await self._client.call_api(*call, _request_timeout=timeout)
            content: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(
                0, "Unreachable", f"{method} {path}: {str(error) or type(error).__name__}"
            ) from error
        return _parse(response.status, content.decode(errors="replace"))

    async def find(self, path: str) -> Manifest | None:
        """Return one object, or None if it does not exist."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


def _parse(status: int, text: str) -> Manifest:
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        document = {"message": text[:500]}
    if status >= 400:
        raise ApiError(
            status, str(document.get("reason") or "Error"), str(document.get("message") or "")
        )
    return dict(document)
