"""Applications behind a real HTTP server in the test's event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI

from task_service.api.app import create_app
from task_service.embedded import free_port
from task_service.loops import loop
from task_service.server import Listening, _listening
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.tasks import quiet_wakeups

START_SECONDS = 10


@contextlib.asynccontextmanager
async def bare_server(app: FastAPI) -> AsyncIterator[Listening]:
    """Serve an application on a free port, without its background loops."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=free_port(), lifespan="off", log_config=None, access_log=False
    )
    server = Listening(config)
    task = asyncio.create_task(server.serve())
    await asyncio.wait_for(server.listening.wait(), START_SECONDS)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def full_server(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application as `task-service api` does, with its background loops; yield the URL."""
    server = _listening(app, ("127.0.0.1", free_port()), 5)
    task = asyncio.create_task(server.serve())
    await asyncio.wait_for(server.listening.wait(), START_SECONDS)
    async with loop.running(app.state.background):
        try:
            yield f"http://127.0.0.1:{server.config.port}"
        finally:
            await app.state.events.stop()
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def api_instance(settings: Settings) -> AsyncIterator[str]:
    """Serve another instance of the API with its own connection pool; yield the URL."""
    engine = create_engine(settings)
    async with full_server(create_app(settings, engine, quiet_wakeups())) as url:
        yield url
    await engine.dispose()
