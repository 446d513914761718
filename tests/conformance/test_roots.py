"""The paths at the root for each ROOT_COMPATIBILITY, with and without a trailing slash."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.support.conformance.checks import UNKNOWN_ID, check_d_error, check_json, check_problem
from tests.support.conformance.deployments import ROOTS, Deployment


@pytest.fixture(params=ROOTS)
def deployment(
    request: pytest.FixtureRequest, deployment_for: Callable[[str], Deployment]
) -> Deployment:
    """A deployment with each ROOT_COMPATIBILITY."""
    return deployment_for(request.param)


def format_of(listed: Any) -> str:
    """Return the service whose format this list of tasks has."""
    if isinstance(listed, list):
        return "c" if {"conversation_count", "processing_instance_id"} <= set(listed[0]) else "?"
    return "d" if set(listed["items"][0]) == {"id", "title", "status", "created_by"} else "e"


@pytest.mark.parametrize("slash", ["", "/"])
def test_root_tasks_have_the_format_of_the_root_service(deployment: Deployment, slash: str) -> None:
    with deployment.client() as client:
        check_json(client.post("/api/v1/tasks", json={"title": "a"}), 201)
        assert format_of(check_json(client.get(f"/tasks{slash}"))) == deployment.root
        for service in ROOTS:
            assert format_of(check_json(client.get(f"/compat/{service}/tasks{slash}"))) == service


@pytest.mark.parametrize("slash", ["", "/"])
def test_paths_without_conflicts_are_at_every_root(deployment: Deployment, slash: str) -> None:
    with deployment.client() as client:
        a = check_json(client.post(f"/api/python/v1/tasks{slash}", json={"title": "a"}), 201)
        assert check_json(client.get(f"/api/python/v1/tasks/{a['id']}{slash}")) == a
        b = check_json(client.post(f"/api/tasks{slash}", json={"title": "b"}), 201)
        assert check_json(client.get(f"/api/tasks/{b['id']}{slash}")) == b
        assert isinstance(check_json(client.get(f"/api/settings{slash}")), list)
        assert check_json(client.get(f"/health{slash}"))["status"] == "healthy"
        assert "workers" in check_json(client.get(f"/status{slash}"))
        new = {"title": "c", "conversations": [{"body": 1}]}
        [conversation] = check_json(client.post(f"/compat/c/tasks{slash}", json=new), 201)[
            "conversations"
        ]
        assert (
            check_json(client.put(f"/conversations/{conversation['id']}{slash}", json={"body": 2}))[
                "body"
            ]
            == 2
        )
        d = check_json(client.post(f"/task{slash}", json={"title": "d"}), 201)
        assert (
            check_json(client.put(f"/task/{d['id']}{slash}", json={"title": "D"}))["title"] == "D"
        )
        assert check_json(client.delete(f"/task/{d['id']}{slash}")) == {
            "message": "Task soft deleted successfully"
        }
        file = {"file": ("x.csv", f"title\n{uuid4().hex}\n", "text/csv")}
        assert check_json(client.post(f"/upload-csv{slash}", files=file), 201)["created"] == 1


@pytest.mark.parametrize("slash", ["", "/"])
def test_other_paths_of_d_are_at_the_root_only_for_d(deployment: Deployment, slash: str) -> None:
    name, password = deployment.admin
    with deployment.client() as client:
        for prefix, is_available in (("", deployment.root == "d"), ("/compat/d", True)):
            responses = [
                client.post(
                    f"{prefix}/login{slash}", json={"username": name, "password": password}
                ),
                client.post(
                    f"{prefix}/token{slash}", data={"username": name, "password": password}
                ),
                client.get(f"{prefix}/audit-log{slash}"),
            ]
            for response in responses:
                if is_available:
                    check_json(response)
                else:
                    check_problem(response, 404, "not_found")


def test_errors_have_the_format_of_the_service_of_the_path(deployment: Deployment) -> None:
    with deployment.client() as client:
        for path in ("/task", "/compat/d/task"):
            check_d_error(client.post(path, json={}), 400, "Field 'title' is required")
        for path in (
            "/api/python/v1/tasks",
            "/api/tasks",
            "/compat/c/tasks",
            "/compat/e/tasks",
            "/api/v1/tasks",
        ):
            assert (
                check_problem(client.post(path, json={}), 422, "invalid_field")["errors"][0][
                    "field"
                ]
                == "title"
            )
        response = client.get("/tasks", params={"cursor": "x", "date": "x"})
        if deployment.root == "d":
            check_d_error(response, 422)
        elif deployment.root == "e":
            check_problem(response, 422, "invalid_field")
        else:
            check_json(response)  # the list of C ignores parameters


def test_task_has_a_numeric_id_in_c_and_d_and_a_uuid_in_a_and_e(deployment: Deployment) -> None:
    with deployment.client() as client:
        created = check_json(client.post("/api/v1/tasks", json={"title": uuid4().hex}), 201)
        for path in ("/compat/e/tasks", "/api/python/v1/tasks", "/api/tasks"):
            assert UUID(check_json(client.get(f"{path}/{created['id']}"))["id"]) == UUID(
                created["id"]
            )
        number = check_json(client.get(f"/compat/c/tasks/{created['id']}"))["id"]
        assert isinstance(number, int)
        for key in (number, created["id"]):
            assert (
                check_json(client.put(f"/compat/d/task/{key}", json={"title": "d"}))["id"] == number
            )
            assert check_json(client.get(f"/compat/c/tasks/{key}"))["title"] == "d"
        check_problem(client.get(f"/compat/e/tasks/{number}"), 404, "not_found")
        check_problem(client.get(f"/compat/c/tasks/{UNKNOWN_ID}"), 404, "not_found")
