"""A function in a thread of its own that pauses, so that many forward passes can wait at the same place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class _KilledError(BaseException):
    """Ends a function that is not needed any more; no `except Exception` of a network catches it."""


class Paused:
    """A function that can be stopped half way and goes on when asked to; never two at a time run.

    Parameters
    ----------
    function : callable
        Takes the object itself, so that it, and whatever it calls, can `pause`.

    Examples
    --------
    >>> def count(run):
    ...     for number in range(3):
    ...         run.pause(number)
    >>> run = Paused(count)
    >>> run.advance(), run.advance(), run.advance(), run.advance(), run.done
    (0, 1, 2, None, True)
    """

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.done = False
        self._function = function
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._value: Any = None
        self._error: BaseException | None = None
        self._killed = False
        self._thread: threading.Thread | None = None

    def advance(self) -> Any:
        """Run to the next pause, and return what was handed over there; None at the end.

        Raises
        ------
        BaseException
            Whatever the function raises.
        """
        if self.done:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._stopped.acquire()
        value, self._value = self._value, None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return value

    def pause(self, value: Any = None) -> None:
        """Wait, inside the function, until it is asked to go on."""
        self._value = value
        del value  # what was handed over is kept alive by whoever took it, and by nobody else
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise _KilledError

    def kill(self) -> None:
        """End the function where it is, and wait until it has ended."""
        if self._thread is None or self.done:
            self.done = True
            return
        self._killed = True
        self._go.release()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._function(self)
        except _KilledError:
            pass
        except BaseException as error:  # handed to whoever asked to go on
            self._error = error
        self.done = True
        self._stopped.release()
