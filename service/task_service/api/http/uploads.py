"""Files uploaded as multipart/form-data.

Large files are spooled to disk, and only after the caller has been authorized.
"""

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
"""OpenAPI description of the request body."""


@asynccontextmanager
async def uploaded_file(request: Request) -> AsyncIterator[Upload]:
    """Yield the file in the form field `file`, which is deleted afterwards.

    Raises InvalidFieldError if it is missing, and HTTPException with 400 for an invalid form or a
    client that disconnects, 413 or 415.
    """
    if (
        request.headers.get("content-type", "").split(";")[0].strip().lower()
        != "multipart/form-data"
    ):
        raise HTTPException(415, "Send the file as multipart/form-data, in the field file.")
    try:
        form = await request.form(max_files=1, max_fields=MOST_FIELDS)
    except ClientDisconnect:
        raise HTTPException(400, "The client disconnected before the file was complete.") from None
    except UnicodeError:
        raise HTTPException(
            400, "The form is not valid in the charset of its Content-Type."
        ) from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidFieldError("file", MISSING if file is None else "must be a file")
        yield Upload(file.file, file.filename, await asyncio.to_thread(digest_of, file.file))
    finally:
        await form.close()
