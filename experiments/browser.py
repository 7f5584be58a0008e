"""A headless Chromium, driven through the pipe of its own debugging protocol: no package needed.

Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol: JSON messages, each
ended by a zero byte, that Chromium reads from file descriptor 3 and writes to 4.
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Browser", "BrowserError", "find_chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-default-browser-check",
    "--force-color-profile=srgb",
)


class BrowserError(RuntimeError):
    """The browser did not do what it was asked to, or not in time."""


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome; None if there is none, or no pipe to drive it through."""
    if os.name != "posix":
        return None
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser. A context manager: it ends with the block.

    Args:
        executable: of Chromium; default: the first that is found.
        width: of the page in pixels.
        height: of the page in pixels.
        timeout: seconds to wait for anything.

    Attributes:
        errors: what the page's console said of errors and warnings, and what it did not catch.
        requests: addresses of all that the page asked for.

    Raises:
        BrowserError: if there is no Chromium, or it does not start.
    """

    def __init__(
        self,
        executable: str | None = None,
        *,
        width: int = 1200,
        height: int = 900,
        timeout: float = 30.0,
    ) -> None:
        executable = executable or find_chromium()
        if executable is None:
            raise BrowserError(f"found no browser. Install one of: {', '.join(_NAMES)}.")
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.timeout = timeout
        self._session: str | None = None
        self._number = 0
        self._buffer = b""
        self._profile = tempfile.TemporaryDirectory(
            prefix="air-browser-", ignore_cleanup_errors=True
        )
        self._process = _start(executable, self._profile.name)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
                self.call(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """The browser itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the browser."""
        self.close()

    def close(self) -> None:
        """End the browser and remove what it kept."""
        with contextlib.suppress(OSError):
            self._to.close()  # Chromium ends when its pipe does
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._from.close()
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; returns its result.

        Raises:
            BrowserError: if the browser refuses, ends or does not answer in time.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            self._to.write(json.dumps(message).encode() + b"\0")
        except OSError as error:
            raise BrowserError(f"the browser has ended ({error}).") from error
        end = time.monotonic() + self.timeout
        while True:
            answer = self._read(end, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result

    def resize(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """Another size of the page, in pixels; ``scale`` of the screen's own for each."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def use_dark(self, dark: bool) -> None:
        """Prefer dark colours, or light ones."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        answer = self.call("Page.navigate", url=address)
        if "errorText" in answer:
            raise BrowserError(f"{address}: {answer['errorText']}")
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.

        Raises:
            BrowserError: if it fails.
        """
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {_describe(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true; returns its value.

        Raises:
            BrowserError: if it is not in time.
        """
        end = time.monotonic() + self.timeout
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise BrowserError(f"waited {self.timeout:g} s for {expression}")
            time.sleep(0.03)
        return value

    def middle_of(
        self, selector: str, part: tuple[float, float] = (0.5, 0.5)
    ) -> tuple[float, float]:
        """A point of an element in the window: its middle, or another part of it."""
        x, y, width, height = self.evaluate(
            f"(({{x, y, width, height}}) => [x, y, width, height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return x + part[0] * width, y + part[1] * height

    def drag(self, *points: tuple[float, float], steps: int = 5) -> None:
        """Press the mouse at the first point, move it through the others, release it at the last.

        One point alone is a click. ``steps`` moves lead from each point to the next.
        """
        self._mouse("mouseMoved", points[0], pressed=False)
        self._mouse("mousePressed", points[0])
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            for step in range(1, steps + 1):
                share = step / steps
                self._mouse("mouseMoved", (x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
        self._mouse("mouseReleased", points[-1])

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoViewIfNeeded()")
        self.drag(self.middle_of(selector))

    def press(self, key: str, code: int) -> None:
        """Press and release a key, by its name and its virtual key code."""
        fields = {"key": key, "windowsVirtualKeyCode": code}
        # Enter does what it does to a button by way of the character that it types.
        down = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to a field for files, as a user would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, *, whole_page: bool = True) -> bytes:
        """The page as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)
        return base64.b64decode(answer["data"])

    def _mouse(self, kind: str, point: tuple[float, float], *, pressed: bool = True) -> None:
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=point[0],
            y=point[1],
            button="left" if pressed else "none",
            buttons=1 if pressed and kind != "mouseReleased" else 0,
            clickCount=1 if pressed else 0,
        )

    def _read(self, end: float, purpose: str) -> dict[str, Any]:
        """The next message; what it tells of the page is noted on the way."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise BrowserError(f"no answer to {purpose} in {self.timeout:g} s.")
            piece = os.read(self._from.fileno(), 1 << 16)
            if not piece:
                raise BrowserError(f"the browser ended during {purpose}.")
            self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, what: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(_describe(what["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(part.get("value")) for part in what["args"]))
        elif event == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            entry = what["entry"]
            self.errors.append(f"{entry['text']} {entry.get('url', '')}".strip())


def _start(executable: str, profile: str) -> subprocess.Popen[bytes]:
    """The browser's process; its standard input and output are the protocol's pipes."""
    flags = [*_FLAGS, f"--user-data-dir={profile}"]
    if os.geteuid() == 0:  # Chromium's sandbox refuses to work for root
        flags.append("--no-sandbox")
    # The shell numbers the pipes as Chromium wants them, and becomes Chromium.
    renumber = 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
    return subprocess.Popen(
        ["/bin/sh", "-c", renumber, "browser", executable, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )


def _describe(details: dict[str, Any]) -> str:
    exception = details.get("exception", {})
    return str(exception.get("description") or exception.get("value") or details.get("text"))
