"""Steps of a history: how they are declared, how likely they are, and what they all work with."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from task_service.queue import results
from task_service.queue.claims import Claim
from tests.support.queue_model.model import Attempt, QueueModel
from tests.support.queue_model.stage import Stage

F = TypeVar("F", bound=Callable[..., None])
Choices = st.SearchStrategy[Any] | Callable[[Any], Iterable[Any]]
Given = dict[str, st.SearchStrategy[Any] | list[Any]]


class Kind(NamedTuple):
    """A kind of step: a method's name, how likely it is, and from what each of its arguments is chosen."""

    name: str
    weight: int
    choices: dict[str, Choices]


class Step(NamedTuple):
    """Something that happens: a method's name and its arguments."""

    name: str
    given: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"
        )


def happens(weight: int = 1, **choices: Choices) -> Callable[[F], F]:
    """Declare a method as a step, `weight` times as likely as others.

    Arguments are drawn from strategies, or from what a function finds in the machine at that moment; while it finds
    nothing, the step is not possible.
    """

    def declare(method: F) -> F:
        method.kind = Kind(method.__name__, weight, choices)  # type: ignore[attr-defined]
        return method

    return declare


class Players(RuleBasedStateMachine):
    """The real queue, its model, and the numbers that the model has for real tasks and workers."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage, self.run, self.model = stage, stage.run, QueueModel()
        self.names: dict[UUID, int] = {}
        self.tasks: list[UUID] = []
        self.workers: list[UUID] = []
        self.claims: dict[Attempt, Claim] = {}
        stage.begin()

    @property
    def kinds(self) -> list[Kind]:
        """What may happen at all, the likeliest first: a history that fails is shortened towards them."""
        methods = (getattr(type(self), name) for name in dir(type(self)))
        return sorted(
            (m.kind for m in methods if hasattr(m, "kind")), key=lambda kind: -kind.weight
        )

    def possible(self) -> list[tuple[str, Given]]:
        """What may happen now, as often as it weighs, and what its arguments may be."""
        find = functools.cache(lambda function: list(function(self)))
        possible = []
        for kind in self.kinds:
            given = {
                name: c if isinstance(c, st.SearchStrategy) else find(c)
                for name, c in kind.choices.items()
            }
            if [] not in given.values():
                possible += [(kind.name, given)] * kind.weight
        return possible

    def unlocked(self) -> list[int]:
        """Tasks for which nobody has to wait."""
        return [name for name in self.model.tasks if name not in self.model.locked]

    def some_worker(self) -> list[int]:
        """Workers to choose from: those that are active more often than others."""
        active = [name for name, worker in self.model.workers.items() if worker.state == "active"]
        return [*self.model.workers, *active * 3]

    def connection(self, worker: int) -> asyncpg.Connection:
        """The worker's own."""
        return self.stage.slots[self.model.workers[worker].slot]

    def real(self, attempts: Iterable[Attempt]) -> list[results.Attempt]:
        """Attempts with ids for numbers."""
        return [(self.tasks[name], fence) for name, fence in attempts]

    def named(self, attempts: Iterable[results.Attempt]) -> set[Attempt]:
        """Attempts with numbers for ids."""
        return {(self.names[task], fence) for task, fence in attempts}


@st.composite
def steps(draw: st.DrawFn, machine: Players) -> Step:
    """One of the steps that are possible at that moment."""
    name, given = draw(st.sampled_from(machine.possible()))
    return Step(
        name, {n: draw(st.sampled_from(c) if isinstance(c, list) else c) for n, c in given.items()}
    )
