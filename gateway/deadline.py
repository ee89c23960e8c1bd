"""One moment by which a request is to be answered, shared by all steps on the way.

Exported from notebooks/03-tf-serving-connect.ipynb: change the notebook, then run `make export`.
"""

import time
from dataclasses import dataclass


class DeadlineError(TimeoutError):
    """The time for a request is up."""


@dataclass(frozen=True)
class Deadline:
    """The moment by which a request is to be answered, shared by all steps on the way."""

    moment: float  # in seconds on time.monotonic's clock

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The moment that is so many seconds away."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> "Deadline":
        """This deadline, or one in so many seconds, whichever is sooner: one step's share."""
        return Deadline(min(self.moment, time.monotonic() + seconds))

    def remaining(self) -> float:
        """The seconds left, more than 0; raises DeadlineError when there are none."""
        seconds = self.moment - time.monotonic()
        if seconds <= 0:
            raise DeadlineError("the time for this request is up")
        return seconds
