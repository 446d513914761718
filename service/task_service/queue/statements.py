"""The statements by name."""

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """The text of `sql/NAME.sql`."""
    return files(__package__).joinpath("sql", f"{name}.sql").read_text()
