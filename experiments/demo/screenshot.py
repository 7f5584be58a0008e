"""``python -m experiments.demo.screenshot``: a picture of the page, by headless Chromium."""

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from experiments.browser import Browser
from experiments.demo.server import HOST, DemoApp, make_local_server
from experiments.models import load_model

__all__ = ["STILL", "main", "served"]

STILL = "document.documentElement.dataset.state === 'still'"
"""True in the page when what it shows is of the picture as it is."""

_SEED = 7
"""Of the digits in the tray."""
_DIGITS = ((4, (0.3, 0.33)), (7, (0.68, 0.66)))
"""Which of the tray's digits go where, in shares of the picture."""


@contextlib.contextmanager
def served(app: DemoApp) -> Iterator[str]:
    """The page's address, at a port that is free, until the block ends."""
    server = make_local_server(app, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://{HOST}:{server.port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def take(address: str, *, width: int, dark: bool) -> bytes:
    """The page with two digits in the picture, as PNG."""
    with Browser(width=width, height=800) as browser:
        browser.use_dark(dark)
        browser.open(f"{address}?seed={_SEED}")
        browser.wait_for(STILL)
        browser.click("#clear")
        for number, place in _DIGITS:
            digit = browser.middle_of(f"#tray button:nth-child({number + 1})")
            browser.drag(digit, browser.middle_of("#stage", place))
        height = browser.evaluate("document.documentElement.scrollHeight")
        browser.resize(width, height)
        # The outline of what is chosen would pass for a box that was found.
        browser.drag(browser.middle_of("#stage", (0.06, 0.94)))
        browser.wait_for(STILL)
        return browser.screenshot()


def main() -> None:
    """Take it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", metavar="MODEL", default="multi-mnist")
    parser.add_argument("--output", metavar="FILE.png", type=Path, required=True)
    parser.add_argument("--width", metavar="PIXELS", type=int, default=1100)
    parser.add_argument("--dark", action="store_true", help="as who prefers dark pages sees it")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    args = parser.parse_args()
    if args.output.exists() and not args.force:
        sys.exit(f"error: {args.output} exists. Give another --output, or --force.")
    model = load_model(args.load, "output", torch.device("cpu")).air
    with served(DemoApp(model, args.load)) as address:
        picture = take(address, width=args.width, dark=args.dark)
    args.output.write_bytes(picture)


if __name__ == "__main__":
    main()
