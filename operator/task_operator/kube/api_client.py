"""Plain requests to the API server; credentials come from kubernetes.aio, in a pod or from KUBECONFIG."""

from __future__ import annotations

import json
import os
import ssl
from typing import Any
from urllib.parse import urlencode

import aiohttp
import kopf
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from task_operator.kube.kinds import Manifest

REQUEST_TIMEOUT_SECONDS = 30.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"


class ApiError(Exception):
    """The API server's answer, when it is not a success; status 0 stands for no answer at all."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Login(kopf.ConnectionInfo):
    """Credentials for kopf's watches, checked like those of our own requests."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """The chain, the name and the dates are checked, the letter of RFC 5280 is not.

        Since Python 3.13 the default refuses authorities without a key usage extension. Kubernetes has never asked for
        one, and many clusters' authorities lack it.
        """
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class KubeApi:
    """One session with the API server."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._rest = kubernetes_client.rest.RESTClientObject(configuration)
        self._session = self._rest._create_pool_manager()

    @classmethod
    async def connect(cls) -> KubeApi:
        """Take the credentials of the pod, or those of KUBECONFIG outside of a cluster.

        Raises kubernetes.aio.config.ConfigException when there are neither.
        """
        configuration = kubernetes_client.Configuration()
        configuration.disable_strict_ssl_verification = True  # see Login
        if os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
            await kubernetes_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return cls(configuration)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def authorization(self) -> str:
        """The Authorization header of this moment; empty with client certificates."""
        settings = await self._configuration.auth_settings()
        return str((settings.get("BearerToken") or {}).get("value") or "")

    async def login(self) -> kopf.ConnectionInfo:
        """The same credentials for kopf's watches."""
        scheme, _, token = (await self.authorization()).partition(" ")
        configuration = self._configuration
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
        """One request; the answer's JSON. Raises ApiError, also when there is no answer."""
        headers = {
            "Accept": "application/json, */*;q=0.5",
            "Content-Type": content_type,
            "User-Agent": "task-operator",
        }
        if authorization := await self.authorization():
            headers["Authorization"] = authorization
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body)
        try:
            timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
            async with self._session.request(
                method, url, data=data, headers=headers, timeout=timeout
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(
                0, "Unreachable", f"{method} {path}: {str(error) or type(error).__name__}"
            ) from error
        return _answer(response.status, text)

    async def find(self, path: str) -> Manifest | None:
        """GET one object; None when it does not exist."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


def _answer(status: int, text: str) -> Manifest:
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        document = {"message": text[:500]}
    if status >= 400:
        raise ApiError(
            status, str(document.get("reason") or "Error"), str(document.get("message") or "")
        )
    return dict(document)
