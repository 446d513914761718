"""Reads and writes of Kubernetes objects, except for the watches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from task_operator.kube.api_client import APPLY, MERGE, ApiError, KubeApi
from task_operator.kube.kinds import (
    CHILD_SELECTOR,
    DEPLOYMENT,
    EVENT,
    KINDS,
    MANAGER,
    POD,
    POD_SELECTOR,
    SCALE_MANAGER,
    SERVICE_ACCOUNT,
    TASK_SERVICE,
    Kind,
    Manifest,
    kind_of,
)
from task_operator.kube.object_cache import ObjectCache
from task_operator.kube.objects import controller, name_of, namespace_of, uid_of

TOKEN_SECONDS = 7200
PAGE = 500
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


class RefusedError(Exception):
    """The operator must not or cannot change this object; the message contains the remedy."""


class Cluster:
    """Reads and writes; the response to a write updates the cache immediately."""

    def __init__(self, api: KubeApi, cache: ObjectCache) -> None:
        self._api = api
        self._cache = cache

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Read one object from the API server, not from the cache."""
        return await self._api.find(kind.path(namespace, name))

    async def refresh(self, kind: Kind, namespace: str | None) -> None:
        """List a kind, page by page, and replace its objects in the cache."""
        selector = {TASK_SERVICE: "", POD: POD_SELECTOR}.get(kind, CHILD_SELECTOR)
        items: list[Manifest] = []
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._api.request("GET", kind.path(namespace), query=query)
            items += [
                {"apiVersion": kind.api_version, "kind": kind.kind} | item
                for item in page.get("items") or ()
            ]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                self._cache.replace(kind, namespace, items, int(metadata["resourceVersion"]))
                return
            query["continue"] = metadata["continue"]

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply a child with server-side apply; raise ApiError."""
        return await self._apply(manifest, MANAGER)

    async def apply_replicas(self, deployment: Manifest, replicas: int) -> Manifest:
        """Set a Deployment's replicas under a separate field manager that owns only this field."""
        return await self._apply(
            {
                "apiVersion": DEPLOYMENT.api_version,
                "kind": DEPLOYMENT.kind,
                "metadata": {"name": name_of(deployment), "namespace": namespace_of(deployment)},
                "spec": {"replicas": replicas},
            },
            SCALE_MANAGER,
        )

    async def _apply(self, manifest: Manifest, manager: str) -> Manifest:
        kind = kind_of(manifest)
        if kind not in KINDS:
            raise RefusedError(f"{manifest.get('kind')} is not a kind that the operator applies")
        live = await self._api.request(
            "PATCH",
            kind.path(namespace_of(manifest), name_of(manifest)),
            query={"fieldManager": manager, "force": "true"},
            body=manifest,
            content_type=APPLY,
        )
        self._cache.put(kind, live)
        return live

    async def delete(self, obj: Manifest, owner_uid: str) -> bool:
        """Delete a child of the TaskService, but no other object with the same name.

        Return False if the child no longer exists.
        """
        kind = kind_of(obj)
        if kind not in KINDS or (controller(obj) or {}).get("uid") != owner_uid:
            raise RefusedError(
                f"{obj.get('kind')} {name_of(obj)} is not a child of this TaskService"
            )
        options = {"preconditions": {"uid": uid_of(obj)}, "propagationPolicy": "Background"}
        return await self._delete(kind, obj, options)

    async def delete_pod(self, pod: Manifest) -> bool:
        """Delete a pod, so that its controller replaces it."""
        return await self._delete(POD, pod, {"preconditions": {"uid": uid_of(pod)}})

    async def _delete(self, kind: Kind, obj: Manifest, options: Manifest) -> bool:
        try:
            await self._api.request(
                "DELETE", kind.path(namespace_of(obj), name_of(obj)), body=options
            )
        except ApiError as error:
            if error.status in (404, 409):  # deleted, or replaced by an object with the same name
                return False
            raise
        return True

    async def patch_status(self, task_service: Manifest, status: Manifest) -> None:
        """Merge a patch into the status; null removes a field.

        A TaskService that has been deleted in the meantime is not an error.
        """
        path = TASK_SERVICE.path(namespace_of(task_service), name_of(task_service)) + "/status"
        body = {"metadata": {"uid": uid_of(task_service)}, "status": status}
        try:
            live = await self._api.request(
                "PATCH", path, query={"fieldManager": MANAGER}, body=body, content_type=MERGE
            )
        except ApiError as error:
            if error.status in (404, 409):
                return
            raise
        self._cache.put(TASK_SERVICE, live)

    async def set_deletion_cost(self, pod: Manifest, cost: int) -> None:
        """Set the pod's deletion cost; the ReplicaSet controller deletes cheap pods first."""
        await self._api.request(
            "PATCH",
            POD.path(namespace_of(pod), name_of(pod)),
            query={"fieldManager": MANAGER},
            body={"metadata": {"uid": uid_of(pod), "annotations": {DELETION_COST: str(cost)}}},
            content_type=MERGE,
        )

    async def events_about(self, obj: Manifest) -> list[Manifest]:
        """Return the events of one object, such as a pod's failed mounts."""
        query = {"fieldSelector": f"involvedObject.uid={uid_of(obj)}", "limit": "100"}
        answer = await self._api.request("GET", EVENT.path(namespace_of(obj)), query=query)
        return list(answer.get("items") or ())

    async def record_event(
        self, task_service: Manifest, kind: str, reason: str, message: str
    ) -> None:
        """Create an event about a TaskService (kind: Normal or Warning)."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace, name = namespace_of(task_service), name_of(task_service)
        reference = {
            "apiVersion": TASK_SERVICE.api_version,
            "kind": TASK_SERVICE.kind,
            "namespace": namespace,
            "name": name,
            "uid": uid_of(task_service),
        }
        event: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name}-", "namespace": namespace},
            "involvedObject": reference,
            "type": kind,
            "reason": reason,
            "message": message[:1000],
            "source": {"component": MANAGER},
            "reportingComponent": f"{TASK_SERVICE.group}/{MANAGER}",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._api.request("POST", EVENT.path(namespace), body=event)

    async def request_token(self, namespace: str, account: str, audience: str) -> tuple[str, str]:
        """Request a token of the operator's ServiceAccount for one audience.

        Return the token and its expiration time (RFC 3339).
        """
        answer = await self._api.request(
            "POST",
            SERVICE_ACCOUNT.path(namespace, account) + "/token",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": TOKEN_SECONDS},
            },
        )
        return str(answer["status"]["token"]), str(answer["status"]["expirationTimestamp"])

    async def signing_keys(self) -> tuple[str, Manifest]:
        """Return the issuer of the cluster's ServiceAccount tokens, and its public keys (JWKS)."""
        discovery = await self._api.request("GET", "/.well-known/openid-configuration")
        return str(discovery["issuer"]), await self._api.request("GET", "/openid/v1/jwks")

    async def version(self) -> str:
        """Return the version of the API server, in the form that Helm accepts."""
        return str((await self._api.request("GET", "/version"))["gitVersion"])

    async def has_task_service_crd(self) -> bool:
        """Return True if the CRD is installed."""
        answer = await self._api.find(f"/apis/{TASK_SERVICE.api_version}")
        return any(
            item["name"] == TASK_SERVICE.plural for item in (answer or {}).get("resources") or ()
        )
