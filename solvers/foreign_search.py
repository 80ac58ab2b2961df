"""A search in C++ inside this process: its output, its signals, and a limit on wall-clock time."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

#: seconds of CPU time that no search takes
FAR = 10**6
#: the signals that end a search
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGVTALRM", "SIGALRM") if hasattr(signal, name))


@contextmanager
def quiet() -> Iterator[None]:
    """Send what C++ prints to nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream, _ in kept:
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


class Signals:
    """Lends the process's signals to a search whose own handler ends it, and passes Ctrl-C on when they are back.

    The search holds the interpreter, so that neither a Python handler nor another thread could run meanwhile.

    Attributes
    ----------
    interrupted : bool
        Set by whoever finds that the search ended before any limit: by Ctrl-C.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._main = threading.current_thread() is threading.main_thread()
        self._timed = False

    def __enter__(self) -> Signals:
        self._handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        return self

    def limit(self, take_over: Callable[[int], None], seconds: float | None) -> None:
        """Let a search take its signals over, and let the wall clock end it too.

        `take_over` sets a limit of CPU time, and with it the search's handlers of SIGINT and of that timer. The
        handler of the latter is given to the timer of the wall clock.
        """
        if not self._main:  # signals go to the main thread, and would end nothing there
            return
        take_over(FAR)
        if seconds is None or not hasattr(signal, "SIGALRM"):
            return
        libc = ctypes.CDLL(None)
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        handler = libc.signal(signal.SIGVTALRM, None)  # asking for a handler means setting another one
        libc.signal(signal.SIGVTALRM, handler)
        libc.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
        self._timed = True

    @property
    def expired(self) -> bool:
        """Whether the wall clock has ended the search."""
        return self._timed and signal.getitimer(signal.ITIMER_REAL)[0] == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not self._main:
            return
        for number, handler in self._handlers.items():
            with suppress(TypeError):  # a handler that was not set from Python
                signal.signal(number, handler)
        if self.interrupted:
            signal.raise_signal(signal.SIGINT)
