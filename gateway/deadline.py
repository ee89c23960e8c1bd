"""Share one deadline between all steps of a request, and notice when its caller has left."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.errors import CallerLeftError, DeadlineError

LOOK = 0.1  # seconds after which a step that waits looks whether the caller is still there


@dataclass(frozen=True)
class Deadline:
    """Hold the moment by which a request must be answered, and whether anyone waits for that."""

    moment: float  # in seconds on time.monotonic's clock
    caller_left: Callable[[], bool] = lambda: False

    @classmethod
    def after(cls, seconds: float, **options: Callable[[], bool]) -> "Deadline":
        """Return a deadline `seconds` from now."""
        return cls(time.monotonic() + seconds, **options)

    def within(self, seconds: float) -> "Deadline":
        """Return this deadline, or one `seconds` from now if that is sooner."""
        return Deadline(min(self.moment, time.monotonic() + seconds), self.caller_left)

    def remaining(self) -> float:
        """Return the seconds left, more than 0.

        Raises DeadlineError if there are none, CallerLeftError if the answer has no reader.
        """
        seconds = self.moment - time.monotonic()
        if seconds <= 0:
            raise DeadlineError("the time for this request is up")
        if self.caller_left():
            raise CallerLeftError("the caller closed the connection")
        return seconds

    def waits(self) -> Iterator[float]:
        """Yield how many seconds to wait before the next look. Raises as `remaining`."""
        while True:
            yield min(self.remaining(), LOOK)
