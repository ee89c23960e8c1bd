"""Limit how many bytes of files and pixels the requests of one process hold."""

import threading

from gateway.errors import MAX_HELD, BusyError


class HeldBytes:
    """Count the bytes of one request. They count until its last user, a thread, has left."""

    in_process = 0  # the bytes of all requests
    _lock = threading.Lock()

    def __init__(self) -> None:
        """Start with no bytes and no users."""
        self._bytes = self._users = 0

    def __enter__(self) -> "HeldBytes":
        """Add a user."""
        with self._lock:
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Remove a user; with the last one go the bytes."""
        with self._lock:
            self._users -= 1
            if not self._users:
                HeldBytes.in_process -= self._bytes
                self._bytes = 0

    def add(self, number: int) -> int:
        """Add bytes; return the request's sum.

        Raises BusyError if the requests of this process would hold more than MAX_HELD. A request
        that is alone gets what it needs.
        """
        with self._lock:
            others = HeldBytes.in_process - self._bytes
            if others and HeldBytes.in_process + number > MAX_HELD:
                raise BusyError("requests hold too many bytes")
            HeldBytes.in_process += number
            self._bytes += number
            return self._bytes
