"""Declaration of steps with their weights, and the base class of all state machines."""

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
from tests.support.queue_model.real_queue import RealQueue

F = TypeVar("F", bound=Callable[..., None])
Choices = st.SearchStrategy[Any] | Callable[[Any], Iterable[Any]]
Arguments = dict[str, st.SearchStrategy[Any] | list[Any]]


class StepKind(NamedTuple):
    """Kind of step: method name, weight, and choices for each argument."""

    name: str
    weight: int
    choices: dict[str, Choices]


class Step(NamedTuple):
    """One step: a method name and its arguments."""

    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name}({arguments})"


def step(weight: int = 1, **choices: Choices) -> Callable[[F], F]:
    """Declare a method as a step with this weight.

    Arguments are drawn from strategies or from the list that a method returns at that moment; while
    the list is empty, the step is not possible.
    """

    def declare(method: F) -> F:
        method.kind = StepKind(method.__name__, weight, choices)  # type: ignore[attr-defined]
        return method

    return declare


class ModelMachine(RuleBasedStateMachine):
    """The real queue, its model, and the numbers of tasks and workers in the model."""

    def __init__(self, real_queue: RealQueue) -> None:
        super().__init__()
        self.real_queue, self.run, self.model = real_queue, real_queue.run, QueueModel()
        self.names: dict[UUID, int] = {}
        self.tasks: list[UUID] = []
        self.workers: list[UUID] = []
        self.claims: dict[Attempt, Claim] = {}
        real_queue.begin()

    @property
    def kinds(self) -> list[StepKind]:
        """All kinds of steps by descending weight, towards which Hypothesis shrinks."""
        methods = (getattr(type(self), name) for name in dir(type(self)))
        return sorted(
            (m.kind for m in methods if hasattr(m, "kind")), key=lambda kind: -kind.weight
        )

    def possible(self) -> list[tuple[str, Arguments]]:
        """Return the possible steps, repeated by weight, with the choices for arguments."""
        find = functools.cache(lambda function: list(function(self)))
        possible: list[tuple[str, Arguments]] = []
        for kind in self.kinds:
            arguments = {
                name: c if isinstance(c, st.SearchStrategy) else find(c)
                for name, c in kind.choices.items()
            }
            if [] not in arguments.values():
                possible += [(kind.name, arguments)] * kind.weight
        return possible

    def unlocked(self) -> list[int]:
        """Return the tasks whose rows are not locked."""
        return [name for name in self.model.tasks if name not in self.model.locked]

    def some_worker(self) -> list[int]:
        """Return the workers, active ones several times."""
        active = [name for name, worker in self.model.workers.items() if worker.state == "active"]
        return [*self.model.workers, *active * 3]

    def connection(self, worker: int) -> asyncpg.Connection:
        """Return the connection of the worker's slot."""
        return self.real_queue.slots[self.model.workers[worker].slot]

    def real(self, attempts: Iterable[Attempt]) -> list[results.Attempt]:
        """Convert attempts from numbers to ids."""
        return [(self.tasks[name], fence) for name, fence in attempts]

    def named(self, attempts: Iterable[results.Attempt]) -> set[Attempt]:
        """Convert attempts from ids to numbers."""
        return {(self.names[task], fence) for task, fence in attempts}


@st.composite
def steps(draw: st.DrawFn, machine: ModelMachine) -> Step:
    """Draw one of the steps that are possible at that moment."""
    name, choices = draw(st.sampled_from(machine.possible()))
    return Step(
        name,
        {n: draw(st.sampled_from(c) if isinstance(c, list) else c) for n, c in choices.items()},
    )
