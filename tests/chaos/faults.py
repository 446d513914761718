"""Injection of planned faults, from their start to their end."""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable

from task_service.clocks import machine_seconds
from tests.chaos.evidence import APPLICATION_NAME, InjectedFault
from tests.chaos.plan import Fault
from tests.chaos.system import Seat, System
from tests.support.full_disk import SET_FULL_TABLES

SOME_SESSIONS = f"""
    WITH sessions AS (
        SELECT pid, row_number() OVER (ORDER BY md5(pid::text)) AS n, count(*) OVER () AS present
        FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name <> '{APPLICATION_NAME}'
    )
    SELECT pid FROM sessions WHERE n <= greatest(1, $1::float8 * present) ORDER BY n
"""
"""A share of the sessions that are not those of the run itself."""
ALL_TABLES = ["tasks", "queue", "runs", "effects", "workers"]
Action = Callable[[System, Seat, Fault], Awaitable[None]]


class Faults:
    """Injects faults concurrently, but only one at a time on each target, and records them."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.injected: list[InjectedFault] = []

    async def inject(self, fault: Fault) -> None:
        """Inject one fault, from its start to its end."""
        seat = self._system.seats[fault.seat]
        action, target = ACTIONS[fault.kind]
        async with self._locks[f"seat {seat.number}" if target == SEAT else target]:
            processes = self._processes(seat, target)
            began = machine_seconds()
            await action(self._system, seat, fault)
            self.injected += [
                InjectedFault(fault.kind, process, began, machine_seconds())
                for process in processes
            ]

    def _processes(self, seat: Seat, target: str) -> list[int | None]:
        """Return the affected processes; None means all, as for a fault of the server."""
        if target == SEAT:
            seats = [seat]
        else:
            seats = [s for s in self._system.seats if target == POOLER and s.pooled]
        return [s.worker.number for s in seats if s.worker] or [None]


# -- workers --
async def _kill(system: System, seat: Seat, _: Fault) -> None:
    await system.kill_worker(seat)
    system.start_worker(seat)


async def _replace(system: System, seat: Seat, fault: Fault) -> None:
    await system.kill_worker(seat)
    await asyncio.sleep(fault.seconds)
    seat.slot = seat.slot.with_name(f"slot-{seat.number}-{fault.number}")
    system.start_worker(seat)


async def _restart(system: System, seat: Seat, _: Fault) -> None:
    await system.stop_worker(seat)
    system.start_worker(seat)


async def _clock(system: System, seat: Seat, fault: Fault) -> None:
    await system.stop_worker(seat)
    system.start_worker(seat, clock_hours=1 if fault.share < 0.5 else -1)


async def _stop(system: System, seat: Seat, fault: Fault) -> None:
    assert seat.worker is not None
    seat.worker.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(fault.seconds)
    seat.worker.process.send_signal(signal.SIGCONT)


async def _stall(_: System, seat: Seat, fault: Fault) -> None:
    assert seat.proxy is not None
    seat.proxy.pause()
    await asyncio.sleep(fault.seconds)
    seat.proxy.resume()


async def _lose_responses(_: System, seat: Seat, fault: Fault) -> None:
    assert seat.proxy is not None
    seat.proxy.drop_responses = True
    await asyncio.sleep(fault.seconds)
    seat.proxy.disconnect()


# -- the server --
async def _postgres(system: System, _: Seat, fault: Fault) -> None:
    await asyncio.to_thread(system.postgres.stop, signal.SIGQUIT)
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(system.postgres.start)


async def _terminate(system: System, _: Seat, fault: Fault) -> None:
    await system.query(
        f"SELECT pg_terminate_backend(pid) FROM ({SOME_SESSIONS}) AS sessions", fault.share
    )


async def _backend(system: System, _: Seat, fault: Fault) -> None:
    for row in (await system.query(SOME_SESSIONS, fault.share))[-1:]:
        os.kill(row["pid"], signal.SIGKILL)
    await system.query("SELECT")


async def _disk_full(system: System, _: Seat, fault: Fault) -> None:
    """Make tables full; in half of the cases workers can still renew their leases."""
    await system.query(SET_FULL_TABLES, ALL_TABLES if fault.share < 0.5 else ALL_TABLES[:-1])
    await asyncio.sleep(fault.seconds)
    await system.query(SET_FULL_TABLES, [])


# -- other servers --
async def _pooler(system: System, _: Seat, fault: Fault) -> None:
    system.pooler.kill()
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(system.pooler.start)


async def _redis(system: System, _: Seat, fault: Fault) -> None:
    hangs = fault.share < 0.5
    system.redis.hang() if hangs else system.redis.kill()
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(system.redis.resume if hangs else system.redis.start)


async def _api(system: System, _: Seat, fault: Fault) -> None:
    system.kill_api()
    await asyncio.sleep(fault.seconds)
    system.start_api(pooled=fault.share < 0.5)


SEAT, SERVER, POOLER, REDIS, API = "seat", "server", "pooler", "redis", "api"
ACTIONS: dict[str, tuple[Action, str]] = {
    "kill": (_kill, SEAT),
    "replace": (_replace, SEAT),
    "restart": (_restart, SEAT),
    "clock": (_clock, SEAT),
    "stop": (_stop, SEAT),
    "stall": (_stall, SEAT),
    "lost_responses": (_lose_responses, SEAT),
    "postgres": (_postgres, SERVER),
    "terminate": (_terminate, SERVER),
    "backend": (_backend, SERVER),
    "disk_full": (_disk_full, SERVER),
    "pooler": (_pooler, POOLER),
    "redis": (_redis, REDIS),
    "api": (_api, API),
}
"""Action of each kind, and the target that it affects exclusively."""
