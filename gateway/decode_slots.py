"""Limit how many pictures one process decodes at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from gateway.deadline import Deadline
from gateway.errors import BusyError, DeadlineError
from gateway.picture_limits import max_pixels

MAX_WAIT = 2.0  # seconds for a free slot


class DecodeSlots:
    """Share a fixed number of slots between threads: first come, first served."""

    def __init__(self, free: int) -> None:
        """Start with `free` slots."""
        self._free, self._changed = free, threading.Condition()
        self._queue: list[object] = []  # those who wait

    @contextmanager
    def take(self, number: int, deadline: Deadline) -> Iterator[None]:
        """Hold `number` slots.

        Raises BusyError if they are not free within MAX_WAIT seconds, DeadlineError if the
        request's deadline comes first, and CallerLeftError.
        """
        patience, me = deadline.within(MAX_WAIT), object()

        def my_turn() -> bool:
            return self._queue[0] is me and self._free >= number

        with self._changed:
            self._queue.append(me)
            try:
                for seconds in patience.waits():
                    if self._changed.wait_for(my_turn, seconds):
                        break
                self._free -= number
            except DeadlineError as error:
                deadline.remaining()
                raise BusyError("too many pictures are being decoded") from error
            finally:
                self._queue.remove(me)
                self._changed.notify_all()  # there may be a slot for the next one
        try:
            yield
        finally:
            with self._changed:
                self._free += number
                self._changed.notify_all()


SLOTS = DecodeSlots(2)  # of this process


def slots_needed(image: Image.Image) -> int:
    """Return 2 for a picture of more than half the pixels that are allowed, else 1."""
    return 2 if image.width * image.height > max_pixels(image) / 2 else 1
