"""Service B's paths: `/api/tasks`, a list without pages, and `/api/settings`.

A task reads as in lists of the canonical API.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.answers import answer, task_item
from task_service.api.auth.access import SettingsReader, SettingsWriter
from task_service.api.compat.common import Route, make_router, stream_array
from task_service.api.compat.manual_tasks import PeoplesTasks, new_task
from task_service.api.dependencies import Shared
from task_service.api.http.idempotency import Posted
from task_service.api.http.problems import documented
from task_service.api.routes.app_settings import Key, Setting, setting_item
from task_service.domain.errors import ConflictError, StaleVersionError
from task_service.schemas.responses import TaskItem
from task_service.schemas.tasks import SettingValue
from task_service.services import app_settings as setting_service
from task_service.services.etags import Guard
from task_service.services.legacy.streams import all_settings, all_tasks
from task_service.store.app_settings import SettingRow
from task_service.store.tasks import TaskRow

KEY_PATTERN = r"^[A-Za-z0-9_.:-]{1,100}$"


def task_answer(t: TaskRow, status: int, headers: Mapping[str, str]) -> Response:
    """An answer of one task."""
    return answer(task_item(t), status, headers)


async def list_tasks(context: Shared) -> Response:
    """All tasks, streamed."""
    return await stream_array(all_tasks(context), task_item)


class SettingForm(SettingValue):
    """A setting's value and description. What a client has read it may send back: other fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class NewSettingForm(SettingForm):
    """A setting to make."""

    key: Annotated[str, Field(pattern=KEY_PATTERN, examples=["theme"])]


async def list_settings(_: SettingsReader, context: Shared) -> Response:
    """All settings, streamed."""
    return await stream_array(all_settings(context), setting_item)


async def read_setting(_: SettingsReader, context: Shared, key: Key) -> Response:
    """One setting."""
    async with context.reading() as connection:
        return answer(setting_item(await setting_service.read_setting(connection, key)))


async def create_setting(caller: SettingsWriter, once: Posted, new: NewSettingForm) -> Response:
    """Make a setting; 409 when there is one of that key."""

    async def make(connection: AsyncConnection) -> SettingRow:
        try:
            row, _ = await setting_service.put_setting(
                connection, new.key, new, caller, Guard(), only_new=True
            )
        except StaleVersionError:
            raise ConflictError(f"There is a setting {new.key} already.") from None
        return row

    location = f"{once.request.url.path.rstrip('/')}/{new.key}"
    return await once.write(
        make, lambda row: answer(setting_item(row), 201, {"Location": location})
    )


async def put_setting(
    caller: SettingsWriter, context: Shared, key: Key, wanted: SettingForm
) -> Response:
    """Make a setting (201) or replace it (200)."""
    row, made = await context.write(
        lambda c: setting_service.put_setting(c, key, wanted, caller, Guard(), only_new=False)
    )
    return answer(setting_item(row), 201 if made else 200)


async def delete_setting(_: SettingsWriter, context: Shared, key: Key) -> Response:
    """Remove a setting for good."""
    await context.write(lambda c: setting_service.remove_setting(c, key, Guard()))
    return Response(status_code=204)


SETTINGS = "/api/settings"
MADE: dict[int | str, dict[str, Any]] = {201: {"model": Setting, "description": "Made"}}
TASKS = PeoplesTasks(task_answer)
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
    """At the root and under `/compat/b`."""
    return [make_router("B", prefix, ROUTES) for prefix in ("", "/compat/b")]
