"""Wait for the signals that end a server, and never miss one."""

import os
import signal
from collections.abc import Callable
from functools import partial


def catch_signals(*numbers: signal.Signals) -> Callable[[], bytes]:
    """Catch these signals from now on; return the function that waits for the first of them.

    Only the main thread may call this. The function blocks on a pipe that Python's handler in C
    writes to (`signal.set_wakeup_fd`). A handler in Python can come too late: it runs only when the
    main thread has the interpreter, so an event that it sets can miss a thread that is just
    entering `Event.wait`.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # set_wakeup_fd requires it
    signal.set_wakeup_fd(writer)
    for number in numbers:
        signal.signal(number, lambda *_: None)  # without a handler in Python there is none in C
    return partial(os.read, reader, 1)
