"""Write and remove application settings, each inside the caller's transaction."""

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import NotFoundError, StaleVersionError
from task_service.domain.principals import Principal
from task_service.schemas.tasks import SettingValue
from task_service.services.etags import UNCONDITIONAL, Guard
from task_service.services.transactions import Transaction
from task_service.store import app_settings as store
from task_service.store.app_settings import SettingRow


def etag_of_setting(row: SettingRow) -> str:
    """Return the setting's quoted ETag. A setting that was deleted and created again has a
    different one.
    """
    return f'"{row.version}.{int(row.created_at.timestamp() * 1_000_000):x}"'


async def read_setting(connection: AsyncConnection, key: str) -> SettingRow:
    """Read one setting. Raises NotFoundError."""
    row = await store.read_setting(connection, key)
    if row is None:
        raise NotFoundError("setting", key)
    return row


async def put_setting(
    transaction: Transaction,
    key: str,
    wanted: SettingValue,
    caller: Principal,
    guard: Guard = UNCONDITIONAL,
    *,
    only_new: bool = False,
) -> tuple[SettingRow, bool]:
    """Create or replace a setting; return it and whether it is new.

    Raises StaleVersionError: with `only_new` (`If-None-Match: *`) when the setting exists, with a
    guard that names an ETag when it does not exist or has another one.
    """
    values = {"value": wanted.value, "description": wanted.description, "updated_by": caller.name}
    if only_new:
        created = await store.insert_setting(transaction.sql, key, values)
        if created is None:
            existing = await read_setting(transaction.sql, key)
            raise StaleVersionError(etag_of_setting(existing), "setting")
        return created, True
    if guard.header is not None:
        row = await store.read_setting(transaction.sql, key, lock=True)
        if row is None:
            raise StaleVersionError(None, "setting")
        guard.compare(etag_of_setting(row), "setting")
    return await store.put_setting(transaction.sql, key, values)


async def remove_setting(transaction: Transaction, key: str, guard: Guard = UNCONDITIONAL) -> None:
    """Delete a setting. Raises NotFoundError, StaleVersionError."""
    row = await store.read_setting(transaction.sql, key, lock=True)
    if row is None:
        raise NotFoundError("setting", key)
    guard.compare(etag_of_setting(row), "setting")
    await store.delete_setting(transaction.sql, key)
