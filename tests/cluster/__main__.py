"""Command line of the cluster: `python3 -m tests.cluster up --nodes 2`."""

import argparse
import os
import shlex
from pathlib import Path

from tests.cluster import __doc__ as description
from tests.cluster.binaries import build
from tests.cluster.cluster import Cluster
from tests.cluster.machine import obstacles


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python3 -m tests.cluster", description=(description or "").partition("\n")[0]
    )
    number = int(os.environ.get("CLUSTER", "0"))
    top.add_argument(
        "--number",
        type=int,
        default=number,
        choices=range(10),
        help="which of ten clusters (default: $CLUSTER or 0)",
    )
    top.add_argument(
        "--state",
        type=Path,
        help="folder for its state (default: /var/tmp/task-service-cluster-NUMBER)",
    )
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the binaries and print their folder")
    up = commands.add_parser("up", help="start the cluster and print its kubeconfig's path")
    nodes_help = "0 is an API server with its controllers and no place for pods (default: 1)"
    up.add_argument("--nodes", type=int, default=1, choices=range(10), help=nodes_help)
    up.add_argument(
        "--load", nargs="+", default=[], metavar="ARCHIVE", help="OCI archives for every node"
    )
    commands.add_parser("down", help="stop it and remove every trace")
    commands.add_parser("env", help="print the shell lines that point kubectl and PATH at it")
    commands.add_parser("load", help="import OCI archives on every node").add_argument(
        "archives", nargs="+"
    )
    run = commands.add_parser(
        "exec", help="run a command on node-1's network (the control plane's without nodes)"
    )
    run.add_argument("argv", nargs=argparse.REMAINDER)
    commands.add_parser(
        "disconnect", help="disconnect a node; its processes keep running"
    ).add_argument("node", type=int)
    commands.add_parser("reconnect", help="connect a node again").add_argument("node", type=int)
    pid = commands.add_parser(
        "pid", help="print the process id of a pod's container, to send it a signal"
    )
    pid.add_argument(
        "--all", action="store_true", help="every process of the container, one a line"
    )
    pid.add_argument("pod", help="NAMESPACE/NAME")
    pid.add_argument("container", nargs="?")
    return top


def up(cluster: Cluster, nodes: int, archives: list[str]) -> None:
    reasons = obstacles()
    if reasons:
        raise SystemExit("cluster: this machine cannot run one: " + "; ".join(reasons))
    cluster.up(nodes, archives)
    print(cluster.kubeconfig)


def pid(cluster: Cluster, args: argparse.Namespace) -> None:
    namespace, _, name = args.pod.partition("/")
    found = cluster.pids(namespace, name, args.container)
    if not found:
        raise SystemExit(f"cluster: no running container of {args.pod}")
    print(*(found if args.all else found[:1]), sep="\n")


def execute(cluster: Cluster, argv: list[str]) -> None:
    inside = cluster.network.inside("node-1" if cluster.nodes else "control", *argv)
    os.execvpe(inside[0], inside, os.environ | cluster.environment)


def main() -> None:
    args = parser().parse_args()
    cluster = Cluster(args.number, args.state)
    match args.command:
        case "build":
            print(build())
        case "up":
            up(cluster, args.nodes, args.load)
        case "down":
            cluster.down()
        case "env":
            print(
                "export "
                + " ".join(
                    f"{name}={shlex.quote(value)}" for name, value in cluster.environment.items()
                )
            )
        case "load":
            cluster.load(*args.archives)
        case "exec":
            execute(cluster, args.argv)
        case "disconnect" | "reconnect":
            cluster.node(args.node).plug(connected=args.command == "reconnect")
        case "pid":
            pid(cluster, args)


if __name__ == "__main__":
    main()
