"""Clients of `enqueue`: one for each kind of connection that it accepts."""

from typing import Any
from uuid import UUID

import asyncpg
import psycopg2
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from task_service.enqueue import enqueue, enqueue_async, enqueue_many, enqueue_many_async

KINDS = ("asyncpg", "psycopg2", "session", "connection", "async_session")


class Client:
    """One kind of connection, on which tasks are enqueued in a transaction of their own."""

    def __init__(self, name: str, database: str) -> None:
        self.name, self.database = name, database
        self.function: Any = None
        self.function_async: Any = None
        self.sync: Engine = create_engine(
            database.replace("postgresql://", "postgresql+psycopg2://")
        )
        self.other: AsyncEngine = create_async_engine(
            database.replace("postgresql://", "postgresql+asyncpg://")
        )

    async def enqueue(self, *arguments: Any, commit: bool = True, **options: Any) -> UUID:
        """Enqueue a task and end the transaction; return the task's id."""
        self.function, self.function_async = enqueue, enqueue_async
        task: UUID = await getattr(self, f"_{self.name}")(arguments, options, commit=commit)
        return task

    async def enqueue_many(
        self, *arguments: Any, commit: bool = True, **options: Any
    ) -> list[UUID]:
        """Enqueue tasks and end the transaction; return their ids."""
        self.function, self.function_async = enqueue_many, enqueue_many_async
        tasks: list[UUID] = await getattr(self, f"_{self.name}")(arguments, options, commit=commit)
        return tasks

    async def _asyncpg(self, arguments: Any, options: Any, *, commit: bool) -> Any:
        connection = await asyncpg.connect(self.database)
        transaction = connection.transaction()
        await transaction.start()
        try:
            task = await self.function_async(connection, *arguments, **options)
            await (transaction.commit() if commit else transaction.rollback())
            return task
        finally:
            await connection.close()

    async def _psycopg2(self, arguments: Any, options: Any, *, commit: bool) -> Any:
        connection = psycopg2.connect(self.database)
        try:
            task = self.function(connection, *arguments, **options)
            connection.commit() if commit else connection.rollback()
            return task
        finally:
            connection.close()

    async def _session(self, arguments: Any, options: Any, *, commit: bool) -> Any:
        with Session(self.sync) as session:
            task = self.function(session, *arguments, **options)
            session.commit() if commit else session.rollback()
        self.sync.dispose()
        return task

    async def _connection(self, arguments: Any, options: Any, *, commit: bool) -> Any:
        with self.sync.connect() as connection:
            task = self.function(connection, *arguments, **options)
            connection.commit() if commit else connection.rollback()
        self.sync.dispose()
        return task

    async def _async_session(self, arguments: Any, options: Any, *, commit: bool) -> Any:
        async with AsyncSession(self.other) as session:
            task = await self.function_async(session, *arguments, **options)
            await (session.commit() if commit else session.rollback())
        await self.other.dispose()
        return task
