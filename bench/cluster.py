"""What the main job takes on a real cluster of two nodes: apply, rescue, upgrade under load, idle.

    python -m bench.cluster [--kills 10] [--rounds 3] [--idle-seconds 600]

Prints a table (median and maximum) and writes bench/results/cluster.json. Both workers are at work
before each loss; times are from the loss to the last new claim of a lost task, by the clock that
nodes and database share.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.e2e import worker_loss
from tests.support.e2e.environment import LEASE_SECONDS, Environment, running_environment
from tests.support.e2e.idle_services import (
    COUNT,
    idle_task_services,
    is_lease,
    writes_of_the_operator,
)
from tests.support.e2e.installation import Installation
from tests.support.e2e.load import Load, Tally
from tests.support.e2e.worker_loss import Method, lose_a_worker, waited_seconds

RESULTS = Path(__file__).parent / "results"


def until_ready_seconds(environment: Environment, rounds: int) -> list[float]:
    """From `kubectl apply` to Ready: migration, two API pods, two workers."""
    seconds = []
    for number in range(rounds):
        installation = Installation.prepare(environment, f"apply-{number}")
        began = time.monotonic()
        installation.apply()
        installation.until_ready()
        seconds.append(time.monotonic() - began)
        installation.close()
        installation.kube.run("delete", "namespace", installation.kube.namespace, "--timeout=120s")
    return seconds


def rescue_seconds(demo: Installation, way: Method, rounds: int) -> list[float]:
    """From the loss of a worker to the last of its tasks' next claims."""
    seconds = []
    for _ in range(rounds):
        demo.until_workers()
        loss = lose_a_worker(demo, way)
        try:
            seconds.append(max(waited_seconds(loss, demo.until_ended(loss.ids))))
        finally:
            if way is worker_loss.stop:
                worker_loss.resume(demo, loss.pod)
    return seconds


def upgrade(demo: Installation) -> Tally:
    """Requests while version 2 migrates and rolls out, and while version 3 fails to."""
    demo.until_workers()
    with Load(demo.url) as tally:
        demo.set_image("2")
        demo.until_ready()
        demo.until_old_pods_are_gone()
        demo.set_image("3")
        demo.kube.wait(demo.target, "condition=Degraded")
        demo.set_image("2")
        demo.until_ready()
    attempts = demo.until_ended(tally.created)
    assert {len(runs) for runs in attempts.values()} == {1}, "a task was lost or run twice"
    return tally


def measure(
    environment: Environment, kills: int, rounds: int, idle_seconds: float
) -> dict[str, Any]:
    """Everything, one after the other."""
    results: dict[str, Any] = {"apply_to_ready_seconds": until_ready_seconds(environment, rounds)}
    demo = Installation.prepare(environment, "bench")
    demo.apply()
    demo.until_ready()
    results["killed_seconds"] = rescue_seconds(demo, worker_loss.kill, kills)
    results["force_deleted_seconds"] = rescue_seconds(demo, worker_loss.stop_and_delete, rounds)
    demo.until_workers()
    with environment.operator_stopped():
        results["lease_seconds"] = LEASE_SECONDS
        results["stopped_without_operator_seconds"] = rescue_seconds(demo, worker_loss.stop, rounds)
    tally = upgrade(demo)
    results["upgrade"] = {
        "requests": tally.requests,
        "failures": tally.failures,
        "tasks": len(tally.created),
        "slowest_seconds": tally.slowest_seconds,
    }
    demo.until_workers()
    demo.until_idle()
    with idle_task_services(environment):
        writes = writes_of_the_operator(environment, idle_seconds)
    others = Counter(line for line in writes if not is_lease(line))
    results["idle"] = {
        "task_services": COUNT + 1,
        "seconds": idle_seconds,
        "writes": len(writes),
        "others": others,
    }
    demo.close()
    return results


def show(results: dict[str, Any]) -> None:
    for name, values in results.items():
        if isinstance(values, list):
            print(
                f"{name:34} median {statistics.median(values):6.2f}  max {max(values):6.2f}  of {len(values)}"
            )
    load, idle = results["upgrade"], results["idle"]
    print(f"{'upgrade under load':34} {len(load['failures'])} of {load['requests']} requests failed, "
          f"slowest {load['slowest_seconds']:.2f} s")  # fmt: skip
    print(f"{'idle':34} {sum(idle['others'].values())} writes but the Lease in {idle['seconds']:g} s "
          f"with {idle['task_services']} TaskServices")  # fmt: skip


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-seconds", type=float, default=600)
    arguments = parser.parse_args()
    with running_environment() as environment:
        results = measure(environment, arguments.kills, arguments.rounds, arguments.idle_seconds)
    show(results)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cluster.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
