"""gateway/deadline: one moment for all steps of a request."""

import pytest

from gateway.deadline import Deadline
from gateway.errors import DeadlineError


def test_remaining_is_what_was_given_less_what_passed():
    assert 4 < Deadline.after(5).remaining() <= 5


def test_within_gives_a_step_its_share_and_never_more_than_is_left():
    assert 1 < Deadline.after(5).within(2).remaining() <= 2
    assert 1 < Deadline.after(2).within(5).remaining() <= 2


@pytest.mark.parametrize("seconds", [0, -1])
def test_remaining_raises_after_the_moment(seconds):
    with pytest.raises(DeadlineError, match="up"):
        Deadline.after(seconds).remaining()
    assert issubclass(DeadlineError, TimeoutError)  # so that network code treats it as one
