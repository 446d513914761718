"""Service B's paths: `/api/tasks`, a list without paging, and `/api/settings`.

A task has the same fields as in lists of `/api/v1`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field

from task_service.api.answers import answer, task_item
from task_service.api.auth.access import SettingsReader, SettingsWriter
from task_service.api.compat.common import Route, make_router, stream_array
from task_service.api.compat.manual_tasks import ManualTasks, new_task
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.api.routes.app_settings import Key, Setting, setting_item
from task_service.domain.errors import ConflictError, StaleVersionError
from task_service.schemas.responses import TaskItem
from task_service.schemas.tasks import SettingValue
from task_service.services import app_settings as setting_service
from task_service.services.legacy.unpaged_lists import all_settings, all_tasks
from task_service.services.transactions import Transaction
from task_service.store.app_settings import SettingRow
from task_service.store.tasks import TaskRow

KEY_PATTERN = r"^[A-Za-z0-9_.:-]{1,100}$"


def task_answer(t: TaskRow, status: int, headers: Mapping[str, str]) -> Response:
    """Build the response for one task."""
    return answer(task_item(t), status, headers)


async def list_tasks(transactions: Transactions) -> Response:
    """Return all tasks, as a stream."""
    return await stream_array(all_tasks(transactions), task_item)


class SettingForm(SettingValue):
    """A setting's value and description.

    Other fields are ignored, so that a client can send back the setting that it has read.
    """

    model_config = ConfigDict(extra="ignore")


class NewSettingForm(SettingForm):
    """A setting to create."""

    key: Annotated[str, Field(pattern=KEY_PATTERN, examples=["theme"])]


async def list_settings(_: SettingsReader, transactions: Transactions) -> Response:
    """Return all settings, as a stream."""
    return await stream_array(all_settings(transactions), setting_item)


async def read_setting(_: SettingsReader, transactions: Transactions, key: Key) -> Response:
    """Return one setting."""
    async with transactions.read() as connection:
        return answer(setting_item(await setting_service.read_setting(connection, key)))


async def create_setting(
    caller: SettingsWriter, idempotent: Idempotent, new: NewSettingForm
) -> Response:
    """Create a setting; 409 if one with this key exists."""

    async def create(transaction: Transaction) -> SettingRow:
        try:
            row, _ = await setting_service.put_setting(
                transaction, new.key, new, caller, only_new=True
            )
        except StaleVersionError:
            raise ConflictError(f"The setting {new.key} already exists.") from None
        return row

    location = f"{idempotent.request.url.path.rstrip('/')}/{new.key}"
    return await idempotent.write(
        create, lambda row: answer(setting_item(row), 201, {"Location": location})
    )


async def put_setting(
    caller: SettingsWriter, transactions: Transactions, key: Key, wanted: SettingForm
) -> Response:
    """Create a setting (201) or replace it (200)."""
    row, made = await transactions.write(
        lambda t: setting_service.put_setting(t, key, wanted, caller)
    )
    return answer(setting_item(row), 201 if made else 200)


async def delete_setting(_: SettingsWriter, transactions: Transactions, key: Key) -> Response:
    """Delete a setting permanently."""
    await transactions.write(lambda t: setting_service.remove_setting(t, key))
    return Response(status_code=204)


SETTINGS = "/api/settings"
MADE: dict[int | str, dict[str, Any]] = {201: {"model": Setting, "description": "Created"}}
TASKS = ManualTasks(task_answer)
ROUTES = (
    Route("POST", "/api/tasks", TASKS.create_task, TaskItem, 201, responses=new_task(TaskItem)),
    Route("GET", "/api/tasks", list_tasks, list[TaskItem]),
    Route("GET", "/api/tasks/{task_id}", TASKS.read_task, TaskItem),
    Route("PUT", "/api/tasks/{task_id}", TASKS.update_task, TaskItem),
    Route("DELETE", "/api/tasks/{task_id}", TASKS.delete_task, status=204),
    Route("GET", SETTINGS, list_settings, list[Setting]),
    Route("POST", SETTINGS, create_setting, Setting, 201),
    Route("GET", SETTINGS + "/{key}", read_setting, Setting),
    Route(
        "PUT", SETTINGS + "/{key}", put_setting, Setting, responses=MADE | documented(400, 413, 415)
    ),
    Route("DELETE", SETTINGS + "/{key}", delete_setting, status=204),
)


def routers() -> list[APIRouter]:
    """Return service B's routers, at the root and under `/compat/b`."""
    return [make_router("B", prefix, ROUTES) for prefix in ("", "/compat/b")]
