"""The OpenAPI document: complete, and consistent with the service."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

pytestmark = pytest.mark.asyncio


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, what)
        for path, methods in document["paths"].items()
        for method, what in methods.items()
    ]


async def test_every_operation_has_description_tag_unique_id_and_problems(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    found = operations(document)
    assert len(found) > 35
    ids = [what["operationId"] for _, _, what in found]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in document["tags"]}
    for path, method, what in found:
        assert what["description"], (path, method)
        assert set(what["tags"]) <= tags
        assert "503" in what["responses"], (path, method)
        for status, response in what["responses"].items():
            if int(status) >= 400:
                kind = (
                    "application/json"
                    if "service D" in what["tags"]
                    else "application/problem+json"
                )
                assert list(response["content"]) == [kind], (path, method, status)


async def test_references_resolve_and_examples_match_their_schemas(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if "$ref" in node else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    assert {r.rsplit("/", 1)[1] for r in references(document)} <= set(schemas)
    for schema in schemas.values():
        for example in schema.get("examples", []):
            complete = schema | {"components": document["components"]}
            Draft202012Validator(complete).validate(example)
    assert schemas["NewTask"]["properties"]["title"]["maxLength"] == 200
    assert schemas["NewTask"]["additionalProperties"] is False


async def test_documentation_pages_are_served(client: httpx.AsyncClient, app: FastAPI) -> None:
    for path in ("/docs", "/redoc"):
        page = await client.get(path)
        assert page.status_code == 200
        assert "/openapi.json" in page.text


async def test_every_documented_path_exists(client: httpx.AsyncClient) -> None:
    for path, method, what in operations((await client.get("/openapi.json")).json()):
        if path.endswith("/events"):
            continue  # endless streams have their own tests
        response = await client.request(method, re.sub(r"{\w+}", "x", path))
        assert str(response.status_code) in what["responses"], (path, method, response.status_code)
        if response.status_code == 404:
            assert "There is no resource at" not in response.text, path


async def test_paths_differ_in_more_than_parameter_names(
    client: httpx.AsyncClient,
) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert len({re.sub(r"{\w+}", "{}", path) for path in paths}) == len(paths)


async def test_root_redirects_to_the_documentation(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/docs")
