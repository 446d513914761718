"""Doing a fault of the plan: from its beginning, through its time, to its end."""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable

from task_service.clocks import machine_seconds
from tests.chaos.evidence import OURS, Done
from tests.chaos.plan import Fault
from tests.chaos.stage import Seat, Stage
from tests.support.full_disk import SET_FULL_TABLES

SOME = f"""
    WITH theirs AS (
        SELECT pid, row_number() OVER (ORDER BY md5(pid::text)) AS n, count(*) OVER () AS present
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> '{OURS}'
    )
    SELECT pid FROM theirs WHERE n <= greatest(1, $1::float8 * present) ORDER BY n
"""
"""A share of the sessions that are not ours."""
EVERYTHING = ["tasks", "queue", "runs", "effects", "workers"]
Deed = Callable[[Stage, Seat, Fault], Awaitable[None]]


class Faults:
    """Does faults, several at once, but one at a time to the same thing, and keeps what was done."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.done: list[Done] = []

    async def do(self, fault: Fault) -> None:
        """One fault, from its beginning to its end."""
        seat = self._stage.seats[fault.seat]
        deed, concerns = DEEDS[fault.kind]
        async with self._turns[f"seat {seat.number}" if concerns == SEAT else concerns]:
            processes = self._processes(seat, concerns)
            began = machine_seconds()
            await deed(self._stage, seat, fault)
            self.done += [
                Done(fault.kind, process, began, machine_seconds()) for process in processes
            ]

    def _processes(self, seat: Seat, concerns: str) -> list[int | None]:
        """Whom a fault concerns: all when the server is hit."""
        seats = (
            [seat]
            if concerns == SEAT
            else [s for s in self._stage.seats if concerns == POOLER and s.pooled]
        )
        return [s.life.number for s in seats if s.life] or [None]


# -- workers --
async def _kill(stage: Stage, seat: Seat, _: Fault) -> None:
    await stage.kill_worker(seat)
    stage.start_worker(seat)


async def _vanish(stage: Stage, seat: Seat, fault: Fault) -> None:
    await stage.kill_worker(seat)
    await asyncio.sleep(fault.seconds)
    seat.slot = seat.slot.with_name(f"slot-{seat.number}-{fault.number}")
    stage.start_worker(seat)


async def _leave(stage: Stage, seat: Seat, _: Fault) -> None:
    await stage.end_worker(seat)
    stage.start_worker(seat)


async def _clock(stage: Stage, seat: Seat, fault: Fault) -> None:
    await stage.end_worker(seat)
    stage.start_worker(seat, clock_hours=1 if fault.share < 0.5 else -1)


async def _stop(stage: Stage, seat: Seat, fault: Fault) -> None:
    assert seat.life is not None
    seat.life.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(fault.seconds)
    seat.life.process.send_signal(signal.SIGCONT)


async def _stall(_: Stage, seat: Seat, fault: Fault) -> None:
    assert seat.proxy is not None
    seat.proxy.pause()
    await asyncio.sleep(fault.seconds)
    seat.proxy.resume()


async def _deaf(_: Stage, seat: Seat, fault: Fault) -> None:
    assert seat.proxy is not None
    seat.proxy.drop_responses = True
    await asyncio.sleep(fault.seconds)
    seat.proxy.disconnect()


# -- the server --
async def _postgres(stage: Stage, _: Seat, fault: Fault) -> None:
    await asyncio.to_thread(stage.postgres.stop, signal.SIGQUIT)
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(stage.postgres.start)


async def _terminate(stage: Stage, _: Seat, fault: Fault) -> None:
    await stage.ask(f"SELECT pg_terminate_backend(pid) FROM ({SOME}) AS theirs", fault.share)


async def _backend(stage: Stage, _: Seat, fault: Fault) -> None:
    for row in (await stage.ask(SOME, fault.share))[-1:]:
        os.kill(row["pid"], signal.SIGKILL)
    await stage.ask("SELECT")


async def _disk_full(stage: Stage, _: Seat, fault: Fault) -> None:
    """In half of these faults workers can renew their leases all the while."""
    await stage.ask(SET_FULL_TABLES, EVERYTHING if fault.share < 0.5 else EVERYTHING[:-1])
    await asyncio.sleep(fault.seconds)
    await stage.ask(SET_FULL_TABLES, [])


# -- what else there is --
async def _pooler(stage: Stage, _: Seat, fault: Fault) -> None:
    stage.pooler.kill()
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(stage.pooler.start)


async def _redis(stage: Stage, _: Seat, fault: Fault) -> None:
    hangs = fault.share < 0.5
    stage.redis.hang() if hangs else stage.redis.kill()
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(stage.redis.resume if hangs else stage.redis.start)


async def _api(stage: Stage, _: Seat, fault: Fault) -> None:
    stage.kill_api()
    await asyncio.sleep(fault.seconds)
    stage.start_api(pooled=fault.share < 0.5)


SEAT, SERVER, POOLER, REDIS, API = "seat", "server", "pooler", "redis", "api"
DEEDS: dict[str, tuple[Deed, str]] = {
    "kill": (_kill, SEAT),
    "vanish": (_vanish, SEAT),
    "leave": (_leave, SEAT),
    "clock": (_clock, SEAT),
    "stop": (_stop, SEAT),
    "stall": (_stall, SEAT),
    "deaf": (_deaf, SEAT),
    "postgres": (_postgres, SERVER),
    "terminate": (_terminate, SERVER),
    "backend": (_backend, SERVER),
    "disk_full": (_disk_full, SERVER),
    "pooler": (_pooler, POOLER),
    "redis": (_redis, REDIS),
    "api": (_api, API),
}
"""How each kind is done, and what one at a time is done to."""
