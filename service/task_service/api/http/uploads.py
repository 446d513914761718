"""Files that come as multipart/form-data: to disk when they are large, and only after the caller may send them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from task_service.api.http.problems import MISSING
from task_service.domain.errors import InvalidFieldError
from task_service.services.csv.importer import Upload, digest_of

MOST_FIELDS = 10
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "CSV, UTF-8, with a header row.",
                        }
                    },
                }
            }
        },
    }
}
"""OpenAPI's description of such a body."""


@asynccontextmanager
async def uploaded_file(request: Request) -> AsyncIterator[Upload]:
    """The file in the form's field `file`; it is gone afterwards.

    Raises InvalidFieldError without one; HTTPException 400 for a broken form or a client that leaves, 413, 415.
    """
    if (
        request.headers.get("content-type", "").split(";")[0].strip().lower()
        != "multipart/form-data"
    ):
        raise HTTPException(415, "Send the file as multipart/form-data, in the field file.")
    try:
        form = await request.form(max_files=1, max_fields=MOST_FIELDS)
    except ClientDisconnect:
        raise HTTPException(400, "The client left before the file was here.") from None
    except UnicodeError:
        raise HTTPException(
            400, "The form cannot be read in the charset that its Content-Type names."
        ) from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidFieldError("file", MISSING if file is None else "must be a file")
        yield Upload(file.file, file.filename, await asyncio.to_thread(digest_of, file.file))
    finally:
        await form.close()
