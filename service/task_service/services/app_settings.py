"""Write and remove application settings, in the caller's transaction (`Context.write`)."""

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import NotFoundError, StaleVersionError
from task_service.domain.principals import Principal
from task_service.schemas.tasks import SettingValue
from task_service.services.etags import Guard
from task_service.store import app_settings as store
from task_service.store.app_settings import SettingRow


def etag_of_setting(row: SettingRow) -> str:
    """The setting's ETag, with its quotes. One that was removed and made anew has another time of creation."""
    return f'"{row.version}.{int(row.created_at.timestamp() * 1_000_000):x}"'


async def read_setting(connection: AsyncConnection, key: str) -> SettingRow:
    """One setting. Raises NotFoundError."""
    row = await store.read_setting(connection, key)
    if row is None:
        raise NotFoundError("setting", key)
    return row


async def put_setting(
    connection: AsyncConnection,
    key: str,
    wanted: SettingValue,
    caller: Principal,
    guard: Guard,
    *,
    only_new: bool,
) -> tuple[SettingRow, bool]:
    """Make or replace a setting, and tell whether it is new. Raises StaleVersionError.

    `only_new`: not when there is one already (`If-None-Match: *`). A guard that names an ETag asks for one that exists.
    """
    values = {"value": wanted.value, "description": wanted.description, "updated_by": caller.name}
    if only_new:
        made = await store.insert_setting(connection, key, values)
        if made is None:
            raise StaleVersionError(etag_of_setting(await read_setting(connection, key)), "setting")
        return made, True
    if guard.header is not None:
        row = await store.read_setting(connection, key, lock=True)
        if row is None:
            raise StaleVersionError(None, "setting")
        guard.compare(etag_of_setting(row), "setting")
    return await store.put_setting(connection, key, values)


async def remove_setting(connection: AsyncConnection, key: str, guard: Guard) -> None:
    """Remove a setting for good. Raises NotFoundError, StaleVersionError."""
    row = await store.read_setting(connection, key, lock=True)
    if row is None:
        raise NotFoundError("setting", key)
    guard.compare(etag_of_setting(row), "setting")
    await store.delete_setting(connection, key)
