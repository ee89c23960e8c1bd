"""Share one deadline between all steps of a request."""

import time
from dataclasses import dataclass

from gateway.errors import DeadlineError


@dataclass(frozen=True)
class Deadline:
    """Hold the moment by which a request must be answered."""

    moment: float  # in seconds on time.monotonic's clock

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return a deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> "Deadline":
        """Return this deadline, or one `seconds` from now if that is sooner."""
        return Deadline(min(self.moment, time.monotonic() + seconds))

    def remaining(self) -> float:
        """Return the seconds left, more than 0. Raises DeadlineError if there are none."""
        seconds = self.moment - time.monotonic()
        if seconds <= 0:
            raise DeadlineError("the time for this request is up")
        return seconds
