"""Words to search for, as a query that PostgreSQL understands. Of what people type only `word*`
means something.

Words are cut where `task_words` (in the migrations) cuts them, and made lower case by the same
rules. Each is found as a whole, because only that can be asked of an index whatever the word: `art`
does not find `artist`, `art*` does.
"""

import re
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Text, bindparam, collate, func, literal_column

SEPARATORS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00a0«·»\u2010\u2011\u2012\u2013\u2014\u2018\u2019“”…\u3000、。\uff0c"
WORD = re.compile(rf"([^\s\x00-\x1f\x7f{re.escape(SEPARATORS)}]+)(\*?)")


def query_of(text: str) -> str | None:
    """The query for a text: all its words must occur; `word*` stands for all that begin so. None:
    there is no word.

    >>> query_of("Ada's e-mail & tele*"), query_of("--")
    ("'Ada' & 's' & 'e' & 'mail' & 'tele':*", None)
    """
    words = [f"'{word}'{':*' if star else ''}" for word, star in WORD.findall(text)]
    return " & ".join(words) or None


def words_match(title: ColumnElement[Any], description: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that title or description have the words of the query that is the parameter
    `text`.

    Served by the index `tasks_words`.
    """
    lower = func.lower(collate(bindparam("text", type_=Text), "pg_c_utf8"))
    words = func.to_tsquery(literal_column("'pg_catalog.simple'::regconfig"), lower)
    return func.task_words(title, description).op("@@", return_type=Boolean())(words)
