"""Ask a run to stop: the first signal politely, the second at once."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, SIGTERM and SIGINT set :attr:`received` and do no more.

    A second signal ends the process there and then, with the status that shells give for the
    signal (143 and 130). Nothing is harmed by that: files appear whole or not at all.

    Outside the main thread Python hands out no signals: there it does nothing.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        # Not print: it may be what was interrupted.
        message = f"\n{self.received.name}: saving after this step; once more to stop at once.\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())
