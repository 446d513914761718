"""The process-wide context as a dependency of routes."""

from typing import Annotated

from fastapi import Depends, Request

from task_service.services.context import Context


async def get_context(request: Request) -> Context:
    """Return the process's context. FastAPI would run a plain function in a thread."""
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(get_context)]
