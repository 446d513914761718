"""CSV import of tasks: validation row by row and COPY, in the caller's transaction."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from typing import IO, Any, Literal, NamedTuple

import structlog
from pydantic import Field, ValidationError

from task_service.domain.errors import InvalidFileError
from task_service.domain.principals import Principal
from task_service.schemas.tasks import NewTask
from task_service.schemas.types import KeptTags, KeptText, KeptTitle
from task_service.services.bulk import (
    CHUNK,
    MetricLabels,
    claim_ids,
    count_tasks,
    due_date_problem,
    insert_tasks,
    metric_labels,
)
from task_service.services.csv.format import (
    COLUMNS,
    IMPORT_ONLY,
    READ_ONLY,
    CellError,
    due_from,
    read_cells,
)
from task_service.services.csv.reader import Record, read_records
from task_service.services.transactions import Transaction
from task_service.store import import_files
from task_service.store.database import ping

Mode = Literal["all-or-nothing", "skip-invalid"]
MAX_ERRORS = 1_000
MAX_HEADER_ERRORS = 100
MAX_EXISTING_LINES = 1_000
NAME_MAX = 200
BLOCK_BYTES = 1_048_576
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """File to import: seekable, and within the size limit. `digest` is its SHA-256."""

    file: IO[bytes]
    name: str | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class RowError:
    """Error in a row. `line` is the line where the row begins; `column` None means the whole row."""

    line: int
    column: str | None
    message: str


@dataclass(slots=True)
class Report:
    """The result of an import. `errors` are the first thousand of `error_count`.

    `present` counts rows whose unique key was reserved already. `present_lines` are the lines of
    the first thousand of them.
    """

    digest: str
    rows: int = 0
    created: int = 0
    skipped: int = 0
    error_count: int = 0
    errors: list[RowError] = field(default_factory=list)
    repeated: bool = False
    present: int = 0
    present_lines: list[int] = field(default_factory=list)


class Row(NamedTuple):
    """Valid row, and the line where it begins."""

    line: int
    task: NewTask


async def import_csv(
    transaction: Transaction, upload: Upload, mode: Mode, caller: Principal
) -> Report:
    """Import a file. A repeated file in the same mode returns the first report, with `repeated`.

    Raises InvalidFileError for an invalid header and, unless invalid rows are skipped, for any
    invalid row.
    """
    digest = hashlib.sha256(f"{mode}\n".encode() + upload.digest).hexdigest()
    name = _storable(upload.name)
    if not await import_files.claim(transaction.sql, digest, name, caller.name):
        return _report_of(await import_files.read_report(transaction.sql, digest))
    reader = _Reader(transaction.clock, upload.file, Report(digest))
    report, created = reader.report, Counter[MetricLabels]()
    async with aclosing(_read_ahead(reader)) as chunks:
        async for rows in chunks:
            if mode == "all-or-nothing" and report.error_count:
                await ping(transaction.sql)  # the server ends transactions that are idle for long
            else:
                created.update(await _insert(transaction, rows, report, caller))
    if mode == "all-or-nothing" and report.error_count:
        raise _invalid_file(report.errors, report.error_count)
    report.created = created.total()
    count_tasks(created)
    await import_files.keep_report(transaction.sql, digest, asdict(report))
    log.info(
        "csv_imported", digest=digest, rows=report.rows, created=report.created, by=caller.name
    )
    return report


async def _insert(
    transaction: Transaction, rows: Sequence[Row], report: Report, caller: Principal
) -> Counter[MetricLabels]:
    """Insert a chunk, report the rows whose unique key is held, and count the inserted tasks."""
    result = await claim_ids(transaction, [row.task for row in rows])
    await insert_tasks(transaction, result.inserted, caller)
    report.present += len(result.existing)
    lines = [rows[position].line for position in result.existing]
    report.present_lines += lines[: MAX_EXISTING_LINES - len(report.present_lines)]
    return Counter(metric_labels(task.new) for task in result.inserted)


def digest_of(file: IO[bytes]) -> bytes:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.digest()


async def _read_ahead(reader: "_Reader") -> AsyncGenerator[list[Row], None]:
    """Yield the valid rows in chunks. A thread reads the next chunk ahead.

    Raises InvalidFileError.
    """
    following = asyncio.create_task(asyncio.to_thread(reader.start))
    try:
        while (rows := await following) is not None:
            following = asyncio.create_task(asyncio.to_thread(reader.read))
            yield rows
    finally:
        await asyncio.wait([following])  # the caller may close the file only after the thread


class ExportedTask(NewTask):
    """A row of an export. Values imported from another service are accepted at any length."""

    title: KeptTitle
    description: KeptText | None = None
    tags: KeptTags = Field(default_factory=list)


class _Reader:
    """Reader of a file's rows in chunks; counts rows and errors in a report."""

    def __init__(self, clock: Callable[[], datetime], file: IO[bytes], report: Report) -> None:
        self.report = report
        self._clock = clock
        self._file = file
        self._header: list[str] = []
        self._records: Iterator[Record] = iter(())

    def start(self) -> list[Row] | None:
        """Read the header and the first rows. Raises InvalidFileError."""
        self._records = read_records(self._file)
        first = next(self._records, None)
        if first is None:
            message = "the file is empty; the first line must contain the column names"
            raise _invalid_file([RowError(1, None, message)])
        if first.problem:
            message = f"the first line must contain the column names: {first.problem}"
            raise _invalid_file([RowError(first.line, None, message)])
        self._header = [
            name.strip().lower().replace(" ", "_").replace("-", "_") for name in first.cells
        ]
        if errors := _check_header(first.line, self._header):
            raise _invalid_file(errors, len(errors))
        return self.read()

    def read(self) -> list[Row] | None:
        """Return the valid rows of the next chunk, which may be none; None at the end of the file."""
        records = list(islice(self._records, CHUNK))
        rows = [Row(record.line, task) for record in records if (task := self._task(record))]
        self.report.rows += len(records)
        self.report.skipped += len(records) - len(rows)
        return rows if records else None

    def _task(self, record: Record) -> NewTask | None:
        """Return the row's task; None after adding its errors to the report."""
        if record.problem or len(record.cells) != len(self._header):
            column = self._column_name(record.at)
            self._add_error(record.line, column, record.problem or self._wrong_count(record))
            return None
        row, now = dict(zip(self._header, record.cells, strict=True)), self._clock()
        try:
            model = ExportedTask if row.get("id") and row.get("created_at") else NewTask
            task = model.model_validate({"title": ""} | read_cells(row))
            if problem := due_date_problem(task, due_from(row, now)):
                raise CellError("due_date", problem)
        except CellError as error:
            self._add_error(record.line, error.column, error.message)
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False, include_context=False):
                message = each["msg"].removeprefix("Value error, ")
                self._add_error(record.line, str(each["loc"][0]), message)
        else:
            return task
        return None

    def _column_name(self, at: int | None) -> str | None:
        return self._header[at] if at is not None and at < len(self._header) else None

    def _wrong_count(self, record: Record) -> str:
        return f"the row has {len(record.cells)} cells, but the header has {len(self._header)}"

    def _add_error(self, line: int, column: str | None, message: str) -> None:
        self.report.error_count += 1
        if len(self.report.errors) < MAX_ERRORS:
            self.report.errors.append(RowError(line, column, message))


def _check_header(line: int, header: Sequence[str]) -> list[RowError]:
    """Return the first 100 errors in the column names."""
    errors, seen, known = [], set[str](), (*COLUMNS, *IMPORT_ONLY)
    for name in header:
        shown = name.encode(errors="replace").decode()[:50]
        if name not in known and name not in READ_ONLY:
            message = f"unknown column; known: {', '.join(known)}"
            errors.append(RowError(line, shown, message))
        elif name in seen:
            errors.append(RowError(line, shown, "the column is repeated"))
        seen.add(name)
        if len(errors) == MAX_HEADER_ERRORS:
            break
    if "title" not in header:
        errors.insert(0, RowError(line, "title", "the column is missing"))
    return errors


def _invalid_file(errors: Sequence[RowError], count: int = 1) -> InvalidFileError:
    first = errors[0]
    where = f"line {first.line}" + (f", column {first.column}" if first.column else "")
    more = f" ({count:,} errors in total)" if count > 1 else ""
    shown = [asdict(error) | {"field": error.column or "file"} for error in errors]
    return InvalidFileError(f"{where}: {first.message}{more}. Nothing was imported.", shown, count)


def _report_of(stored: dict[str, Any]) -> Report:
    errors = [RowError(**error) for error in stored.pop("errors")]
    return Report(**stored | {"errors": errors, "repeated": True})


def _storable(name: str | None) -> str | None:
    """Return a file name that PostgreSQL can store."""
    return name.replace("\x00", "").encode(errors="replace").decode()[:NAME_MAX] if name else None
