"""Users: registration, lists, changes, and the effect of changes on their tokens."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest

from task_service.api.auth.first_admin import FirstAdmin
from task_service.domain.ids import new_id
from task_service.domain.permissions import Role
from task_service.services.transactions import TransactionManager
from tests.support.problems import check_invalid_token, check_problem
from tests.support.secured_app import KEY, ME, PASSWORD, SecuredApp, bearer, log_in
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.asyncio
USERS = "/api/v1/users"


async def test_registered_user_can_log_in(secured: SecuredApp) -> None:
    root = await secured.register("root", "admin")
    async with secured.client(secured.token(root)) as admin:
        response = await admin.post(
            USERS, json={"username": "Ada.L", "password": PASSWORD, "role": "operator"}
        )
        assert response.status_code == 201, response.text
        made = response.json()
        assert response.headers["location"] == f"{USERS}/{made['id']}"
        assert set(made) == {
            "id", "username", "role", "disabled", "disabled_at", "created_by", "created_at", "updated_at",
            "last_login_at",
        }  # fmt: skip
        assert (made["username"], made["role"], made["disabled"], made["created_by"]) == (
            "Ada.L", "operator", False, "root",
        )  # fmt: skip
        assert (await admin.get(response.headers["location"])).json() == made
        assert (await log_in(admin, "ada.l")).status_code == 200
        check_problem(
            await admin.post(USERS, json={"username": "ADA.L", "password": PASSWORD}),
            409,
            "conflict",
        )
        plain = await admin.post(USERS, json={"username": "eve", "password": PASSWORD})
        assert plain.json()["role"] == "viewer"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"username": "", "password": PASSWORD}, "username"),
        ({"username": "a b", "password": PASSWORD}, "username"),
        ({"username": "a\n", "password": PASSWORD}, "username"),
        ({"username": "x" * 101, "password": PASSWORD}, "username"),
        ({"username": "Anonymous", "password": PASSWORD}, "username"),
        ({"username": "system", "password": PASSWORD}, "username"),
        ({"username": "oidc:ada", "password": PASSWORD}, "username"),
        ({"username": "ada", "password": "short"}, "password"),
        ({"username": "ada", "password": "x" * 129}, "password"),
        ({"username": "ada", "password": "Password"}, "password"),
        ({"username": "ada", "password": "aaaaaaaaaa"}, "password"),
        ({"username": "adaadaada", "password": "AdaAdaAda"}, "password"),
        ({"username": "ada", "password": "a\u0000bcdefgh"}, "password"),
        ({"username": "ada", "password": None}, "password"),
        ({"username": "ada"}, "password"),
        ({"username": "ada", "password": PASSWORD, "role": "king"}, "role"),
        ({"username": "ada", "password": PASSWORD, "admin": True}, "admin"),
    ],
    ids=str,
)
async def test_invalid_users_are_rejected_by_field_without_the_password(
    secured: SecuredApp, body: dict[str, object], field: str
) -> None:
    root = await secured.register("root", "admin")
    async with secured.client(secured.token(root)) as admin:
        response = await admin.post(USERS, json=body)
    check_problem(response, 422, "invalid_field")
    assert [e["field"] for e in response.json()["errors"]] == [field]
    if body.get("password"):
        assert str(body["password"]) not in response.text


async def test_users_are_listed_in_pages(secured: SecuredApp) -> None:
    names = ["root", "b", "a", "c"]
    users = [await secured.register(name, Role.ADMIN) for name in names]
    async with secured.client(secured.token(users[0])) as admin:
        first = (await admin.get(USERS, params={"limit": 3})).json()
        rest = (await admin.get(USERS, params={"limit": 3, "cursor": first["next_cursor"]})).json()
        assert [u["username"] for u in first["items"] + rest["items"]] == names
        assert rest["next_cursor"] is None
        assert "password" not in str(first)
        check_problem(await admin.get(USERS, params={"cursor": "x"}), 422, "invalid_field")
        for key in (str(new_id()), "x"):
            check_problem(await admin.get(f"{USERS}/{key}"), 404, "not_found")
            check_problem(
                await admin.patch(f"{USERS}/{key}", json={"role": "admin"}), 404, "not_found"
            )


@pytest.mark.parametrize(
    "change", [{"role": "viewer"}, {"disabled": True}, {"password": "another horse battery"}]
)
async def test_changes_of_a_user_end_their_sessions_at_once(
    secured: SecuredApp, change: dict[str, object]
) -> None:
    root, ada = await secured.register("root", "admin"), await secured.register("ada", "editor")
    async with secured.client(secured.token(root)) as admin, secured.client() as client:
        tokens = (await log_in(client, "ada")).json()
        assert (await client.get(ME, headers=bearer(tokens["access_token"]))).status_code == 200
        response = await admin.patch(f"{USERS}/{ada.id}", json=change)
        assert response.status_code == 200, response.text
        check_invalid_token(await client.get(ME, headers=bearer(tokens["access_token"])))
        check_invalid_token(
            await client.post(
                "/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
            )
        )
        again = await log_in(client, "ada", str(change.get("password", PASSWORD)))
        assert again.status_code == (401 if "disabled" in change else 200)
        if "role" in change:
            assert (await client.get(ME, headers=bearer(again.json()["access_token"]))).json()[
                "role"
            ] == "viewer"


async def test_reenabled_user_must_log_in_again(
    secured: SecuredApp,
) -> None:
    root, ada = await secured.register("root", "admin"), await secured.register("ada")
    async with secured.client(secured.token(root)) as admin, secured.client() as client:
        tokens = (await log_in(client, "ada")).json()
        same = await admin.patch(f"{USERS}/{ada.id}", json={"role": "editor", "disabled": False})
        assert same.status_code == 200
        assert (await client.get(ME, headers=bearer(tokens["access_token"]))).status_code == 200
        await admin.patch(f"{USERS}/{ada.id}", json={"disabled": True})
        shown = (await admin.patch(f"{USERS}/{ada.id}", json={"disabled": False})).json()
        assert (shown["disabled"], shown["disabled_at"]) == (False, None)
        check_invalid_token(await client.get(ME, headers=bearer(tokens["access_token"])))
        assert (await log_in(client, "ada")).status_code == 200
        for body in ({"disabled": "yes"}, {"disabled": None}, {"role": None}, {"username": "x"}):
            check_problem(await admin.patch(f"{USERS}/{ada.id}", json=body), 422, "invalid_field")


async def test_last_administrator_can_be_neither_disabled_nor_demoted(
    secured: SecuredApp,
) -> None:
    root = await secured.register("root", "admin")
    async with secured.client(secured.token(root)) as admin:
        for change in ({"disabled": True}, {"role": "operator"}):
            check_problem(await admin.patch(f"{USERS}/{root.id}", json=change), 409, "conflict")
        other = (
            await admin.post(USERS, json={"username": "b", "password": PASSWORD, "role": "admin"})
        ).json()
        await admin.patch(f"{USERS}/{other['id']}", json={"disabled": True})
        check_problem(
            await admin.patch(f"{USERS}/{root.id}", json={"role": "viewer"}), 409, "conflict"
        )
        changed = await admin.patch(
            f"{USERS}/{root.id}", json={"password": "another horse battery"}
        )
        assert changed.status_code == 200


async def test_one_administrator_remains_after_concurrent_demotions(
    secured: SecuredApp, connection: asyncpg.Connection
) -> None:
    for round_ in range(5):
        await connection.execute("DELETE FROM users")
        a, b = (
            await secured.register(f"a{round_}", "admin"),
            await secured.register(f"b{round_}", "admin"),
        )
        async with secured.client(secured.token(a)) as one, secured.client(secured.token(b)) as two:
            responses = await asyncio.gather(
                one.patch(f"{USERS}/{b.id}", json={"role": "viewer"}),
                two.patch(f"{USERS}/{a.id}", json={"disabled": True}),
            )
        assert 200 in [response.status_code for response in responses]
        active = "SELECT count(*) FROM users WHERE role = 'admin' AND disabled_at IS NULL"
        assert await connection.fetchval(active) == 1


async def test_concurrent_instances_create_one_first_administrator(
    secured: SecuredApp, database: str, connection: asyncpg.Connection
) -> None:
    settings: dict[str, Any] = {
        "admin_username": "Root",
        "admin_password": PASSWORD,
        "secret_key": KEY,
        "auth_mode": "required",
    }
    shared: TransactionManager = secured.app.state.transactions
    credentials = secured.app.state.authenticator.credentials

    def instance(**overrides: Any) -> FirstAdmin:
        transactions = TransactionManager(
            settings_for(database, **(settings | overrides)), shared.engine, shared.wakeups
        )
        return FirstAdmin(transactions, credentials)

    instances = [instance(admin_username=name) for name in ("root", "Root", "boss", "chief")]
    await asyncio.gather(*(one.start() for one in instances))
    await asyncio.gather(*(one.done() for one in instances))
    [made] = await connection.fetch("SELECT username, role FROM users")
    assert made["role"] == "admin"
    later = instance(admin_username="late", admin_password="another horse battery")
    await later.start()
    await later.done()
    assert await connection.fetchval("SELECT count(*) FROM users") == 1
    async with secured.client() as client:
        assert (await log_in(client, made["username"])).status_code == 200
    none = instance(admin_username=None, admin_password=None)
    await none.start()
    await none.stop()
    for one in instances:
        await one.stop()


async def test_current_role_decides_and_not_the_role_in_the_token(
    secured: SecuredApp, connection: asyncpg.Connection
) -> None:
    ada = await secured.register("ada", "admin")
    token = secured.token(ada)
    await connection.execute(
        "UPDATE users SET role = 'viewer'"
    )  # as in a manual update, which keeps the version
    async with secured.client(token) as client:
        response: httpx.Response = await client.get(USERS)
    check_problem(response, 403, "forbidden")
    assert (response.json()["needs"], response.json()["role"]) == ("admin", "viewer")
