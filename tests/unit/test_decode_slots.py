"""gateway/decode_slots: threads take turns, and wait no longer than their request allows."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from gateway import decode_slots, images
from gateway.deadline import Deadline
from gateway.decode_slots import DecodeSlots, slots_needed
from gateway.errors import BusyError, DeadlineError

SOON = Deadline.after(60)


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    """Wait for a slot for a moment only."""
    monkeypatch.setattr(decode_slots, "MAX_WAIT", 0.05)


def test_take_shares_two_slots():
    slots = DecodeSlots(2)
    with slots.take(1, SOON), slots.take(1, SOON), pytest.raises(BusyError), slots.take(1, SOON):
        pass
    with slots.take(2, SOON), pytest.raises(BusyError), slots.take(1, SOON):
        pass
    with pytest.raises(ZeroDivisionError), slots.take(2, SOON):
        raise ZeroDivisionError
    with slots.take(2, SOON):
        pass


def test_take_waits_no_longer_than_the_deadline(monkeypatch):
    monkeypatch.setattr(decode_slots, "MAX_WAIT", 5)
    slots, begun = DecodeSlots(0), time.monotonic()
    with pytest.raises(DeadlineError), slots.take(1, Deadline.after(0.1)):
        pass
    assert 0.05 < time.monotonic() - begun < 1


def test_take_gets_the_slot_that_becomes_free(monkeypatch):
    monkeypatch.setattr(decode_slots, "MAX_WAIT", 5)
    slots, waiting = DecodeSlots(1), threading.Event()

    def wait_for_it():
        waiting.set()
        with slots.take(1, SOON):
            return "served"

    with ThreadPoolExecutor() as pool:
        with slots.take(1, SOON):
            answer = pool.submit(wait_for_it)
            waiting.wait(5)
        assert answer.result(5) == "served"


@pytest.mark.parametrize(("side", "needed"), [(3535, 1), (3536, 2)])
def test_a_large_picture_needs_both_slots(side, needed):
    assert slots_needed(Image.new("1", (side, side))) == needed


def test_decode_and_resize_holds_a_slot_and_gives_it_back(monkeypatch):
    slots = DecodeSlots(1)
    monkeypatch.setattr(images, "SLOTS", slots)
    monkeypatch.setattr(images, "decode", lambda image: 1 / slots._free)  # none is free meanwhile
    with pytest.raises(ZeroDivisionError):
        images.decode_and_resize(Image.new("1", (4, 4)), (4, 4), SOON)
    assert slots._free == 1


def test_a_process_has_two_slots():
    assert decode_slots.SLOTS._free == 2
