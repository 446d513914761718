"""How each product is driven: one module each, run by the product's own interpreter, so without our
requirements.

Every module has

- `async def prepare(url)`: make the product's tables in an empty database.
- `def producer(url, queue)`: an async context manager that gives a `Producer`.
- `async def work(url, queue, start)`: run one worker until cancelled; its handler calls `start(number)` and no more.

and may have `CHUNK`, how many tasks its producer enters in one commit, and `run`, which runs a
coroutine on the loop that the product asks for; else it is `asyncio.run`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

Start = Callable[[int], None]


class Producer(Protocol):
    """Enters tasks, each with its number as the only argument."""

    async def one(self, number: int) -> None:
        """Enter one task, and return when it is committed."""

    async def many(self, numbers: Sequence[int]) -> None:
        """Enter these tasks by the product's quickest documented way, in commits of its best size."""
