"""gateway/decode_slots: threads take turns. How long they wait: test_app, test_problems."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from gateway import decode_slots, images
from gateway.deadline import Deadline
from gateway.decode_slots import DecodeSlots
from gateway.errors import BusyError, CallerLeftError
from tests.pictures import encoded
from tutorial.processes import wait_until

SOON = Deadline.after(3600)  # from the import on, which may be long before a test runs


def test_take_shares_two_slots(monkeypatch):
    monkeypatch.setattr(decode_slots, "MAX_WAIT", 0.05)
    slots = DecodeSlots(2)
    with slots.take(1, SOON), slots.take(1, SOON), pytest.raises(BusyError), slots.take(1, SOON):
        pass
    with slots.take(2, SOON), pytest.raises(BusyError), slots.take(1, SOON):
        pass
    with pytest.raises(ZeroDivisionError), slots.take(2, SOON):
        raise ZeroDivisionError
    with slots.take(2, SOON):
        pass


def test_take_serves_first_who_came_first():
    slots, served = DecodeSlots(2), []

    def take(number):
        with slots.take(number, SOON):
            served.append(number)

    def wait_for_queue(length):
        wait_until(lambda: len(slots._queue) == length, timeout=5, interval=0.01, what="a thread")

    with ThreadPoolExecutor() as pool:
        with slots.take(1, SOON):
            pool.submit(take, 2)
            wait_for_queue(1)
            pool.submit(take, 1)  # there is a slot for it, but the other one came first
            wait_for_queue(2)
            assert served == []
        wait_for_queue(0)
    assert served == [2, 1]


def test_take_ends_when_the_caller_leaves():
    slots, left = DecodeSlots(1), threading.Event()
    leaving = Deadline.after(3600, caller_left=left.is_set)

    def take(deadline):
        with slots.take(1, deadline):
            return "taken"

    with ThreadPoolExecutor() as pool:
        with slots.take(1, SOON):
            first = pool.submit(take, leaving)
            wait_until(lambda: len(slots._queue) == 1, timeout=5, interval=0.01, what="a thread")
            second = pool.submit(take, SOON)
            left.set()
            with pytest.raises(CallerLeftError):
                first.result(5)
        assert second.result(5) == "taken"


@pytest.mark.parametrize(("side", "free"), [(3535, 1), (3536, 0)])
def test_decode_and_resize_takes_two_slots_for_a_large_picture(monkeypatch, side, free):
    slots, seen = DecodeSlots(2), []
    monkeypatch.setattr(images, "SLOTS", slots)
    monkeypatch.setattr(images, "decode", lambda image: 1 / seen.append(slots._free))
    with pytest.raises(TypeError):
        images.decode_and_resize(encoded(Image.new("1", (side, side))), (4, 4), SOON)
    assert (seen, slots._free) == ([free], 2)
