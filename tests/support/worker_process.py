"""A worker as a process of its own, to be killed, stopped and continued: `python -m
tests.support.worker_process`.

Settings come from the environment. It prints one line when it is registered, and runs the handlers
below.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from task_service.settings import load_settings
from task_service.telemetry.logs import configure_logs
from task_service.worker.handlers import Context, Handlers, handler
from task_service.worker.process import Worker

INSERT_EFFECT = "INSERT INTO effects (task_id, fence, worker_id) VALUES ($1, $2, $3)"
CREATE_EFFECTS = "CREATE TABLE effects (task_id uuid, fence bigint, worker_id uuid, at timestamptz DEFAULT clock_timestamp())"


@handler("sleep")
async def sleep(context: Context) -> None:
    """Sleep `payload` seconds, then write one row through the held transaction."""
    await asyncio.sleep(context.payload)
    async with context.transaction() as transaction:
        await transaction.connection.execute(
            INSERT_EFFECT, context.task_id, context.fence, context.worker_id
        )
        await transaction.complete()


@handler("block")
def block(context: Context) -> None:
    """Block a thread for `payload` seconds, whatever anybody says."""
    time.sleep(context.payload)


@handler("kill")
async def kill(_: Context) -> None:
    """Kill the worker: a poisonous task."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    """Run until SIGTERM."""
    settings = load_settings()
    configure_logs(settings)
    worker = Worker(settings, Handlers([sleep, block, kill]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await worker.start()
    while worker.instance_id is None:
        await asyncio.sleep(0.01)
    print(worker.instance_id, flush=True)
    await stop.wait()
    await worker.stop()


def spawn(
    database: str, runtime_dir: Path, **settings: object
) -> "tuple[subprocess.Popen[str], str]":
    """Start one and return it with its worker id. The caller kills it."""
    given = {
        "DATABASE_URL": database,
        "RUNTIME_DIR": runtime_dir,
        "HEARTBEAT_SECONDS": 0.2,
        "LEASE_SECONDS": 1,
        "LOG_FORMAT": "console",
    }
    env = os.environ | {k.upper(): str(v) for k, v in (given | settings).items()}
    argv = [sys.executable, "-m", "tests.support.worker_process"]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


if __name__ == "__main__":
    asyncio.run(main())
