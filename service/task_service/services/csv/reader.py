"""Reader of CSV files (RFC 4180, UTF-8) that uses bounded memory for any content. Pure.

An unreadable record is returned with its problem, and reading continues at the next line.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

RECORD_MAX_BYTES = 1_048_576
"""Maximum record size: a payload of 256 KiB with doubled quotes fits."""
BOM = b"\xef\xbb\xbf"
csv.field_size_limit(RECORD_MAX_BYTES)  # process-wide; this module limits records itself


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the file. `line` is its first line, `at` the index of a cell with a `problem`."""

    line: int
    cells: list[str]
    problem: str | None = None
    at: int | None = None


class _TooLongError(Exception):
    """A record exceeds the limit."""


class _Lines:
    """The file's lines as text, for the csv module."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.read = 0
        self.begin()

    def begin(self) -> None:
        """Begin a new record."""
        self.record: list[str] = []
        self.is_damaged = False
        self._size = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(RECORD_MAX_BYTES + 1)
        if not line:
            raise StopIteration
        self.read += 1
        self._size += len(line)
        if self._size > RECORD_MAX_BYTES:
            while line and not line.endswith(b"\n"):
                line = self._file.readline(RECORD_MAX_BYTES)
            raise _TooLongError
        if self.read == 1:
            line = line.removeprefix(BOM)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text, self.is_damaged = line.decode(errors="surrogateescape"), True
        self.record.append(text)
        return text


def read_records(file: IO[bytes]) -> Iterator[Record]:
    """Yield the records of a file from its start, without empty lines.

    The delimiter is a comma, or a semicolon if the first line contains one and no comma.
    """
    file.seek(0)
    first = file.readline(RECORD_MAX_BYTES)
    file.seek(0)
    delimiter = ";" if b";" in first and b"," not in first else ","
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin()
        line = lines.read + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            yield Record(
                line, [], f"the row is longer than {RECORD_MAX_BYTES} bytes{_until(line, lines)}"
            )
        except csv.Error:
            whole = _count_cells("".join(lines.record), delimiter)
            yield Record(line, [], f"invalid quoting{_until(line, lines)}", whole)
        else:
            if cells:
                at = (
                    next((i for i, cell in enumerate(cells) if not _is_text(cell)), None)
                    if lines.is_damaged
                    else None
                )
                yield Record(line, cells, None if at is None else "is not UTF-8", at)


def _until(line: int, lines: _Lines) -> str:
    return f"; reading continues after line {lines.read}" if lines.read > line else ""


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count_cells(record: str, delimiter: str) -> int:
    """How many cells of a broken record are whole.

    >>> _count_cells('a,"b","d"e,f', ",")
    2
    """
    cell = re.compile(rf'(?:"(?:[^"]|"")*"|[^"{delimiter}\r\n][^{delimiter}\r\n]*|){delimiter}')
    count = end = 0
    while found := cell.match(record, end):
        count, end = count + 1, found.end()
    return count
