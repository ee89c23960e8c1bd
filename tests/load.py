"""A load of predictions that costs little itself, in a process of its own.

    python -m tests.load PORT --seconds=6 --rate=80       so many a second, answered or not
    python -m tests.load PORT --seconds=6 --callers=16    each asks again when it is answered

Sends one small picture over and over, each time on a new connection to 127.0.0.1, and prints a JSON
list: [seconds since the start, seconds taken, status (0 for a connection that broke)].
"""

import argparse
import asyncio
import io
import json
import sys
import time

from PIL import Image

CALLER_WAITS = 30  # seconds
TEAL = (0, 128, 128)


def png(colour: str | tuple[int, int, int] = TEAL) -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(file, "PNG")
    return file.getvalue()


def upload(picture: bytes) -> bytes:
    """An HTTP request that brings a picture as a form's file."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = head + picture + b"\r\n--b--\r\n"
    return (
        b"POST /predict HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def ask(port: int, request: bytes) -> int:
    """The status of the answer, or 0."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), CALLER_WAITS)
        finally:
            writer.close()
        return int(answer.split(b" ", 2)[1])
    except (OSError, IndexError, TimeoutError):
        return 0


async def load(port: int, seconds: float, rate: float, callers: int) -> list[list[float]]:
    """Ask for so long; every question is waited for."""
    request, begun, answers = upload(png()), time.monotonic(), []

    async def one() -> None:
        asked = time.monotonic()
        status = await ask(port, request)
        answers.append([asked - begun, time.monotonic() - asked, status])

    async def again_and_again() -> None:
        while time.monotonic() - begun < seconds:
            await one()

    asking = [asyncio.ensure_future(again_and_again()) for _ in range(callers)]
    for number in range(int(rate * seconds)):
        await asyncio.sleep(begun + number / rate - time.monotonic())
        asking.append(asyncio.ensure_future(one()))
    await asyncio.gather(*asking)
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--callers", type=int, default=0)
    json.dump(asyncio.run(load(**vars(parser.parse_args()))), sys.stdout)
