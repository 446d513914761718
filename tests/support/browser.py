"""A real browser without a window, spoken to by its DevTools protocol over a pipe."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.skipping import skip_or_fail

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
LAUNCH = """
import fcntl, os, sys
ours, theirs = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(ours, 3)
os.dup2(theirs, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
ANSWER_SECONDS, PAGE_SECONDS = 60.0, 120.0


class Browser:
    """One page. `requests` and `complaints` have what it has asked for and said on its console
    since it opened.
    """

    def __init__(self, program: str, folder: Path) -> None:
        ours, self._to = os.pipe()
        self._from, theirs = os.pipe()
        argv = [program, *QUIET, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(  # the protocol is spoken on the descriptors 3 and 4
            [sys.executable, "-c", LAUNCH, str(ours), str(theirs), *argv],
            pass_fds=(ours, theirs), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours)
        os.close(theirs)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._numbers, self._answers, self._came = (
            itertools.count(1),
            dict[int, Any](),
            threading.Condition(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._session: str | None = None

    def attach(self) -> None:
        """Make the page."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of an expression as soon as it is true; AssertionError with the console when it
        never is.
        """
        deadline = time.monotonic() + PAGE_SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, (script, self.complaints)
            time.sleep(0.05)
        return value

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._to)
        os.close(self._from)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\x00")
        with self._came:
            assert self._came.wait_for(lambda: number in self._answers, ANSWER_SECONDS), method
            answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def _read(self) -> None:
        rest = b""
        while part := os.read(self._from, 65_536):
            *whole, rest = (rest + part).split(b"\x00")
            for text in whole:
                self._take(json.loads(text))

    def _take(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        if "id" in message:
            with self._came:
                self._answers[message["id"]] = message
                self._came.notify_all()
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif message["method"] == "Log.entryAdded" and said["entry"]["level"] in (
            "warning",
            "error",
        ):
            self.complaints.append(said["entry"]["text"])
        elif message["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with an empty page; the test is left out where there is none, unless
    REQUIRE_CLUSTER=1.
    """
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        skip_or_fail("no Chromium on this machine (Debian's package is chromium)")
    with tempfile.TemporaryDirectory(
        prefix="task-service-browser-", ignore_cleanup_errors=True
    ) as folder:
        page = Browser(program, Path(folder))
        try:
            page.attach()
            yield page
        finally:
            page.close()
