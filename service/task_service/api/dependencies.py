"""The process's context as a dependency of its routes."""

from typing import Annotated

from fastapi import Depends, Request

from task_service.services.context import Context


async def get_context(request: Request) -> Context:
    """The process's context. A dependency, and like all of them a coroutine: FastAPI runs others in a thread."""
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(get_context)]
