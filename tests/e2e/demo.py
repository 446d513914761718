"""Demonstration of the product on a cluster: `python -m tests.e2e.demo`, or `make demo`.

It starts a cluster of two nodes on this machine, prints what operator and service do, and removes
the cluster afterwards.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import machine
from tests.support import images
from tests.support.e2e import worker_loss
from tests.support.e2e.environment import Environment, condition, running_environment
from tests.support.e2e.installation import Installation
from tests.support.e2e.load import Load
from tests.support.e2e.worker_loss import lose_a_worker, waited_seconds
from tests.support.kube import poll

TASKS = 200
KILLS = 3


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print a step, and its duration when it has ended."""
    print(f"{text} …", flush=True)
    began = time.monotonic()
    yield
    print(f"      {time.monotonic() - began:.1f} s", flush=True)


def print_indented(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"      {line}", flush=True)


def apply(demo: Installation) -> None:
    print("\n1. A TaskService is applied")
    with step("   kubectl apply: two API pods, two workers, version 1"):
        demo.apply()
        demo.until_ready()
    demo.until_workers()
    print_indented(demo.kube.run("get", "taskservices"))


def run_tasks(demo: Installation) -> None:
    print("\n2. Workers run tasks")
    with step(f"   {TASKS} tasks with conversations over HTTP, a second of work each"):
        ids = demo.create(TASKS, "conversations", conversations=[{"body": {"text": "hello"}}])
        attempts = demo.until_ended(ids)
    runs = [run for found in attempts.values() for run in found]
    shares = [sum(run.pod == pod for run in runs) for pod in sorted({run.pod for run in runs})]
    completed = sum(run.outcome == "completed" for run in runs)
    print_indented(
        f"{completed} completed in {len(runs)} attempts; by worker: {' + '.join(map(str, shares))}"
    )


def kill_workers(demo: Installation) -> None:
    print("\n3. Workers are killed while they run tasks")
    waits = []
    with step(f"   SIGKILL to a worker, {KILLS} times"):
        for _ in range(KILLS):
            demo.until_workers()
            loss = lose_a_worker(demo, worker_loss.kill)
            attempts = demo.until_ended(loss.ids)
            waits.append(max(waited_seconds(loss, attempts)))
            reasons = {attempts[task_id][0].reason for task_id in loss.lost}
            print_indented(
                f"{len(loss.lost)} tasks lost ({', '.join(map(str, reasons))}), "
                f"all running again after {waits[-1]:.2f} s"
            )
    print_indented(f"median {statistics.median(waits):.2f} s")
    messages = '--output=jsonpath={range .items[*]}{.message}{"\\n"}{end}'
    print_indented(
        demo.kube.run("get", "events", "--field-selector=reason=TasksReleased", messages)
    )


def upgrade(demo: Installation) -> None:
    print("\n4. The service is upgraded under 50 requests per second")
    with Load(demo.url) as tally:
        with step("   version 2, which has a migration"):
            demo.set_image("2")
            demo.until_ready()
        with step("   version 3, whose migration fails"):
            demo.set_image("3")
            demo.kube.wait(demo.target, "condition=Migrated=False")
            demo.kube.wait(demo.target, "condition=Degraded")
        print_indented(demo.kube.run("get", "taskservices"))
        print_indented(condition(demo.live(), "Migrated")["message"])
        with step("   back to version 2"):
            demo.set_image("2")
            demo.until_ready()
            demo.until_old_pods_are_gone()
    attempts = demo.until_ended(tally.created)
    repeated = sum(len(runs) != 1 for runs in attempts.values())
    print_indented(
        f"{tally.requests} requests, {len(tally.failures)} failed, "
        f"slowest {tally.slowest_seconds:.2f} s"
    )
    print_indented(f"{len(tally.created)} tasks created, {repeated} of them lost or repeated")


def scale(demo: Installation) -> None:
    print("\n5. kubectl scales the workers")
    with step("   kubectl scale --replicas=4"):
        demo.kube.run("scale", demo.target, "--replicas=4")
        demo.until_workers(4)
    ids = demo.create(2 * TASKS // 10, "sleep", {"seconds": 3})
    held = demo.until_running(ids)
    with step(f"   {len(ids)} tasks run on {len(held)} workers; kubectl scale --replicas=1"):
        demo.kube.run("scale", demo.target, "--replicas=1")
        demo.until_workers(1)
        attempts = demo.until_ended(ids)
    completed = sum(runs[-1].outcome == "completed" for runs in attempts.values())
    print_indented(
        f"{completed} of {len(ids)} completed, "
        f"{sum(len(runs) > 1 for runs in attempts.values())} of them after a release"
    )


def delete(demo: Installation) -> None:
    print("\n6. The TaskService is deleted")
    with step("   kubectl delete taskservice"):
        demo.kube.delete("taskservice", demo.name)
        kinds = (
            "deployments,replicasets,pods,jobs,services,configmaps,serviceaccounts,"
            "poddisruptionbudgets"
        )
        owned = "app.kubernetes.io/part-of=task-service"
        poll("the end of all owned objects", lambda: not demo.kube.list(kinds, owned), 90)
    print_indented(demo.kube.run("get", kinds, f"--selector={owned}") or "no object is left")


def show(environment: Environment) -> None:
    """Run all parts of the demonstration."""
    demo = Installation.prepare(environment, "demo")
    try:
        for part in (apply, run_tasks, kill_workers, upgrade, scale, delete):
            part(demo)
    finally:
        demo.close()


def main() -> None:
    if reasons := machine.obstacles() + images.obstacles():
        sys.exit("demo: no cluster on this machine: " + "; ".join(reasons))
    began = time.monotonic()
    print(
        "Building missing binaries and images; starting operator, PostgreSQL and Valkey …",
        flush=True,
    )
    with running_environment() as environment:
        print(f"      {time.monotonic() - began:.1f} s")
        show(environment)
    print(f"\nFinished after {time.monotonic() - began:.0f} s; the cluster is removed.")


if __name__ == "__main__":
    main()
