"""Wait for the signals that end a server, and never miss one."""

import os
import signal
from collections.abc import Callable
from functools import partial


def catch_signals(*numbers: signal.Signals) -> Callable[[], bytes]:
    """Catch these signals from now on; return the function that waits for the first of them.

    Only the main thread may call this. It blocks on a pipe, to which Python's handler in C writes
    (`signal.set_wakeup_fd`), because a handler in Python can come too late: one that sets an event
    runs only when the main thread has the interpreter, and a signal that arrives while that thread
    is on its way into `Event.wait` does not wake it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # set_wakeup_fd asks for it
    signal.set_wakeup_fd(writer)
    for number in numbers:
        signal.signal(number, lambda *_: None)  # without a handler in Python there is none in C
    return partial(os.read, reader, 1)
