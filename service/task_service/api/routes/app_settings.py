"""`/api/v1/settings`: key-value settings of applications. The service itself does not use them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import BaseModel, Field

from task_service.api import answers
from task_service.api.answers import answer
from task_service.api.auth.access import AuthorizedRoute, SettingsReader, SettingsWriter
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.api.routes.tasks import IfMatch, IfNoneMatch
from task_service.schemas.responses import Page, PageQuery
from task_service.schemas.tasks import SettingValue
from task_service.schemas.types import fragment
from task_service.services import app_settings as service
from task_service.services.app_settings import etag_of_setting
from task_service.services.etags import Guard, is_unchanged
from task_service.store import app_settings as store
from task_service.store.app_settings import SettingRow

router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1/settings", tags=["settings"])

Key = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9_.:-]{1,100}$", description="The setting's name.", examples=["theme"]
    ),
]
OnlyNew = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        pattern=r"^\*$",
        description="`*`: only create the setting; 412 if it exists.",
    ),
]


class Setting(BaseModel):
    """An application setting."""

    key: str
    value: Any
    description: str | None
    version: int = Field(description="Increases with every change.")
    updated_by: str | None
    created_at: datetime
    updated_at: datetime


def setting_item(row: SettingRow) -> dict[str, Any]:
    """Convert a row to the fields of `Setting`."""
    return {
        "key": row.key,
        "value": fragment(row.value),
        "description": row.description,
        "version": row.version,
        "updated_by": row.updated_by,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def setting_answer(row: SettingRow, status: int = 200) -> Response:
    """Build the response for one setting, with its ETag."""
    headers = {"ETag": etag_of_setting(row)}
    if status == 201:
        headers["Location"] = f"/api/v1/settings/{row.key}"
    return answer(setting_item(row), status, headers)


@router.get("", response_model=Page[Setting], responses=documented())
async def list_settings(
    _: SettingsReader, transactions: Transactions, query: Annotated[PageQuery, Query()]
) -> Response:
    """Return one page of settings, ordered by key."""
    async with transactions.read() as connection:
        rows, cursor = await store.list_settings(connection, query.limit, query.cursor)
    return answers.page(map(setting_item, rows), cursor)


@router.get(
    "/{key}",
    response_model=Setting,
    responses={304: {"description": "Unchanged"}, **documented(404)},
)
async def read_setting(
    _: SettingsReader, transactions: Transactions, key: Key, if_none_match: IfNoneMatch = None
) -> Response:
    """Return one setting.

    To detect concurrent changes, send its ETag as `If-Match` with a change.
    """
    async with transactions.read() as connection:
        row = await service.read_setting(connection, key)
    if is_unchanged(if_none_match, etag_of_setting(row)):
        return Response(status_code=304, headers={"ETag": etag_of_setting(row)})
    return setting_answer(row)


@router.put(
    "/{key}",
    response_model=Setting,
    responses={201: {"model": Setting}, **documented(400, 412, 413, 415)},
)
async def put_setting(
    caller: SettingsWriter,
    transactions: Transactions,
    key: Key,
    new: SettingValue,
    if_match: IfMatch = None,
    if_none_match: OnlyNew = None,
) -> Response:
    """Create a setting (201) or replace it as a whole (200). An omitted description is removed."""
    guard, only_new = Guard(if_match), if_none_match is not None
    row, made = await transactions.write(
        lambda t: service.put_setting(t, key, new, caller, guard, only_new=only_new)
    )
    return setting_answer(row, 201 if made else 200)


@router.delete("/{key}", status_code=204, response_class=Response, responses=documented(404, 412))
async def delete_setting(
    _: SettingsWriter, transactions: Transactions, key: Key, if_match: IfMatch = None
) -> Response:
    """Delete a setting permanently."""
    await transactions.write(lambda t: service.remove_setting(t, key, Guard(if_match)))
    return Response(status_code=204)
