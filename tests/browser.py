"""A headless Chromium, driven through two pipes in the DevTools protocol: no driver, no library, no port."""

import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

EXECUTABLE = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--hide-scrollbars",
    "--window-size=1300,1000",
    "--remote-debugging-pipe",
    "about:blank",
)


class Browser:
    """One tab. `requests`: every address that it asked for, `errors`: what its console complained of."""

    def __init__(self, profile: Path):
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # copies beyond the numbers 3 and 4, at which Chromium expects its pipes, so that neither overwrites the other
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_child, from_child)]
        self._process = subprocess.Popen(
            [EXECUTABLE, f"--user-data-dir={profile}", *FLAGS],
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=lambda: [os.dup2(end, place) for end, place in zip(ends, (3, 4))],
        )
        for end in (to_child, from_child, *ends):
            os.close(end)
        self._numbers, self._kept = itertools.count(1), b""
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, seconds: float = 60, **parameters):
        """Call a method of the protocol and return its result; AssertionError if it fails."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + seconds
        while True:
            told = self._message(deadline)
            assert told is not None, f"{method}: no answer within {seconds} s"
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]

    def _message(self, deadline: float):
        """The next message; events are noted on the way."""
        while b"\0" not in self._kept:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._read, 1 << 20) if ready else b""
            if not piece:
                return None
            self._kept += piece
        line, _, self._kept = self._kept.partition(b"\0")
        told = json.loads(line)
        if told.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["params"]["request"]["url"])
        elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.errors.append(
                f"{told['params']['entry']['text']} {told['params']['entry'].get('url', '')}"
            )
        elif told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(told["params"]["exceptionDetails"]["text"])
        return told

    def open(self, address: str) -> None:
        """Go to a page, and wait until all of it is there."""
        self.value("window.leaving = true")
        self.ask("Page.navigate", url=address)
        self.until("!window.leaving && document.readyState === 'complete'")

    def value(self, expression: str):
        """What a JavaScript expression gives, as a plain value."""
        told = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str, seconds: float = 60):
        """Wait until an expression gives something true, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.value(expression):
                return found
            time.sleep(0.1)
        raise AssertionError(
            f"not within {seconds} s: {expression}\n{self.value('document.body.innerText')}"
        )

    def choose_file(self, selector: str, file: Path) -> None:
        """Put a file into an <input type=file>, as the file dialogue does."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"nothing is {selector}"
        self.ask("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def picture(self) -> bytes:
        """The whole page as PNG."""
        import base64

        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        return base64.b64decode(
            self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        )

    def close(self) -> None:
        """End the browser and all that it started."""
        self._session = None
        with contextlib.suppress(AssertionError, OSError):
            self.ask("Browser.close", seconds=10)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for end in (self._read, self._write):
            os.close(end)
