"""Send many prediction requests a second, from a separate process, and measure the answers.

- Open loop (a rate): requests are due at times that do not depend on the answers. The time of a
  request counts from the moment when it is due. So waiting in any queue counts.
- Closed loop (callers): each caller sends the next request when it has its answer. A slow server
  gets fewer requests.

The load uses at most one core.
"""

import asyncio
import io
import itertools
import math
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from tutorial import TutorialError

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GOOD = 200  # HTTP's; also given for an answer over gRPC
BROKEN = 0  # nothing listens, the connection broke, or the timeout was over
KEPT = 1.0  # seconds after which an idle connection is not used again; gunicorn closes it after 2
PROCESS = "from tutorial.load import work; work()"

idle: list[subprocess.Popen] = []  # processes that wait for the next load: a start takes long

Ask = Callable[[], Awaitable[int | str]]  # sends one request; returns the status


@dataclass(frozen=True)
class Result:
    """Hold what a load measured."""

    seconds: float  # during which requests were due
    cpu_seconds: float  # processor time of the load itself
    answers: list[tuple[float, float, int | str]]
    """(when it was due, in seconds from the start; seconds from then to the answer; status), in the
    order of the answers. The status is HTTP's, a gRPC code's name, or 0 for no answer."""

    @property
    def good(self) -> list[float]:
        """Return the seconds that each good answer took, in rising order."""
        return sorted(took for _, took, status in self.answers if status == GOOD)

    @property
    def offered(self) -> float:
        """Return the requests a second."""
        return len(self.answers) / self.seconds

    @property
    def duration(self) -> float:
        """Return the seconds until the last good answer, and at least `seconds`."""
        ends = [due + took for due, took, status in self.answers if status == GOOD]
        return max([self.seconds, *ends])

    @property
    def answered(self) -> float:
        """Return the good answers a second, until the last of them."""
        return len(self.good) / self.duration

    def percentile(self, percent: float) -> float:
        """Return the seconds within which `percent` of the good answers came; nan if none came."""
        good = self.good
        return good[max(0, math.ceil(len(good) * percent / 100) - 1)] if good else math.nan


def form(picture: bytes) -> tuple[bytes, str]:
    """Return the body of a form with one picture, and its content type."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'
    return head + picture + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"


def measure(
    addresses: str | list[str],
    body: bytes,
    *,
    seconds: float,
    rate: float = 0,
    callers: int = 0,
    arrivals: str = "poisson",
    seed: int = 0,
    content_type: str = "application/octet-stream",
    timeout: float = 30,
) -> Result:
    """Run the load in a separate process, and wait for its end.

    Args:
        addresses: URLs such as http://127.0.0.1:9696/predict or grpc://127.0.0.1:8500, which take
            turns. Over gRPC, `body` is a serialized PredictRequest.
        body: the bytes of every request.
        seconds: how long requests are due.
        rate: for an open loop, requests a second.
        callers: for a closed loop, how many callers send requests.
        arrivals: "poisson" for random times, as from many independent clients, or "even".
        seed: the same seed gives the same random times.
        content_type: the body's type, for HTTP.
        timeout: seconds that a caller waits for an answer.

    Raises TutorialError if no request gets an answer.
    """
    addresses = [addresses] if isinstance(addresses, str) else addresses
    times = schedule(rate, seconds, arrivals, seed) if rate else []
    load = (addresses, body, content_type, times, callers, seconds, timeout)
    result = in_a_process(load)
    if result.answers and all(status == BROKEN for _, _, status in result.answers):
        raise TutorialError(f"no server answers at {', '.join(addresses)}: is it running?")
    return result


def in_a_process(load: tuple) -> Result:
    """Return what `send` returns for a load, from a process that ends with this one."""
    command, pipe = [sys.executable, "-c", PROCESS], subprocess.PIPE
    process = idle.pop() if idle else subprocess.Popen(command, stdin=pipe, stdout=pipe)
    try:
        pickle.dump(load, process.stdin)
        process.stdin.flush()
        result = pickle.load(process.stdout)
    except BaseException:
        process.kill()
        raise
    idle.append(process)
    return result


def work() -> None:
    """Send the loads that arrive on standard input; write their results to standard output."""
    with suppress(EOFError, KeyboardInterrupt):  # the process that started this one ends
        while True:
            result = asyncio.run(send(*pickle.load(sys.stdin.buffer)))
            pickle.dump(result, sys.stdout.buffer)
            sys.stdout.flush()


def schedule(rate: float, seconds: float, arrivals: str, seed: int) -> list[float]:
    """Return the times at which requests are due, in seconds from the start."""
    if arrivals == "even":
        return [number / rate for number in range(int(rate * seconds))]
    chance = random.Random(seed)
    times = itertools.accumulate(chance.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda due: due < seconds, times))


async def send(
    addresses: list[str],
    body: bytes,
    content_type: str,
    times: list[float],
    callers: int,
    seconds: float,
    timeout: float,
) -> Result:
    """Send requests at the `times` and from the callers, and wait for every answer."""
    answers: list[tuple[float, float, int | str]] = []
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT)
    headers = {"Content-Type": content_type}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        asks = []
        for address in addresses:
            over_grpc = address.startswith("grpc://")
            asks.append(grpc_ask(address, body) if over_grpc else http_ask(session, address, body))
        in_turn, begun, cpu = itertools.cycle(asks), time.monotonic(), time.process_time()

        async def one(due: float) -> None:
            try:
                async with asyncio.timeout(timeout):
                    status = await next(in_turn)()
            except (OSError, TimeoutError, ValueError, aiohttp.ClientError):
                status = BROKEN
            answers.append((due, time.monotonic() - begun - due, status))

        async def again_and_again() -> None:
            while (now := time.monotonic() - begun) < seconds:
                await one(now)

        asking = [asyncio.ensure_future(again_and_again()) for _ in range(callers)]
        for due in times:
            await asyncio.sleep(begun + due - time.monotonic())
            asking.append(asyncio.ensure_future(one(due)))
        await asyncio.gather(*asking)
        return Result(seconds, time.process_time() - cpu, answers)


def http_ask(session: aiohttp.ClientSession, url: str, body: bytes) -> Ask:
    """Return a function that posts the body over an idle connection, or over a new one."""

    async def ask() -> int:
        async with session.post(url, data=io.BytesIO(body)) as response:
            await response.read()
            return response.status

    return ask


def grpc_ask(url: str, body: bytes) -> Ask:
    """Return a function that sends the body, a serialized PredictRequest, over one channel."""
    import grpc  # only here, because the import is slow

    predict = grpc.aio.insecure_channel(url.removeprefix("grpc://")).unary_unary(PREDICT)

    async def ask() -> int | str:
        try:
            await predict(body)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return GOOD

    return ask
