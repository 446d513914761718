"""Script of `helm test`, which runs in the image of the service: run a task and delete it.

If the API requires tokens, the script has none. Then it checks that the API is healthy and rejects
a request without a token.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

API = os.environ["API_URL"]
SECONDS = 60


def call(method: str, path: str, body: object = None) -> dict:
    """Send a request and return the response; exit with the service's message on an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        API + path, data, {"Content-Type": "application/json"}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500]}")
    return json.loads(text) if text else {}


def reach(path: str) -> None:
    """Wait for the first response; new endpoints reach the nodes shortly after pods are ready."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            call("GET", path)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"GET {API}{path}: no response within {SECONDS} s: {error}")
        time.sleep(0.2)


def refused(path: str) -> bool:
    """Return True if the response to a request without a token is 401."""
    try:
        urllib.request.urlopen(API + path, timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    return False


reach("/health")
if os.environ["AUTH_MODE"] == "required":
    if not refused("/api/v1/tasks"):
        sys.exit(
            "GET /api/v1/tasks without a token did not return 401, although auth.mode is required"
        )
    print("the API responds, and rejects requests without a token")
    sys.exit()
if os.environ["WORKERS"] == "none":
    print("the API responds; there are no workers to test")
    sys.exit()
task = call(
    "POST", "/api/v1/tasks", {"title": "helm test", "handler": "noop", "queue": os.environ["QUEUE"]}
)
deadline = time.monotonic() + SECONDS
while task["status"] not in ("completed", "failed", "cancelled"):
    if time.monotonic() > deadline:
        sys.exit(
            f"task {task['id']} is still {task['status']} after {SECONDS} s: "
            "does a worker serve its queue?"
        )
    time.sleep(0.2)
    task = call("GET", f"/api/v1/tasks/{task['id']}")
call("DELETE", f"/api/v1/tasks/{task['id']}")
print(f"task {task['id']}: {task['status']}")
sys.exit(task["status"] != "completed")
