"""Send many prediction requests a second, from a process of its own, and measure the answers.

    python -m tutorial.load http://127.0.0.1:9696/predict --type image/jpeg --rate 80 --seconds 6
    python -m tutorial.load grpc://127.0.0.1:8500 --callers 16 --seconds 6

It sends the bytes from stdin (a picture, or a serialized PredictRequest) again and again. The
addresses take turns. Connections stay open.

- Open loop (--rate): requests are due at times that do not depend on the answers. The time of a
  request counts from the moment when it is due. So waiting in any queue counts.
- Closed loop (--callers): each caller sends the next request when it has its answer. A slow server
  gets fewer requests.

It prints the fields of a Result as JSON. It uses at most one core.
"""

import argparse
import asyncio
import io
import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import aiohttp

from tutorial import TutorialError

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GOOD = 200  # HTTP's; also given for an answer over gRPC
BROKEN = 0  # nothing listens, the connection broke, or the timeout was over
KEPT = 1.0  # seconds after which an idle connection is not used again; gunicorn closes it after 2

Ask = Callable[[], Awaitable[int | str]]


@dataclass(frozen=True)
class Result:
    """Hold what a load measured."""

    seconds: float  # during which requests were due
    cpu_seconds: float  # processor time of the load itself
    answers: list[tuple[float, float, int | str]]
    """[when it was due, in seconds from the start; seconds from then to the answer; status], in the
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
    """Run the load in a process of its own, and wait for its end.

    Args:
        addresses: URLs such as http://127.0.0.1:9696/predict or grpc://127.0.0.1:8500.
        body: the bytes of every request.
        seconds: how long requests are due.
        rate: for an open loop, requests a second.
        callers: for a closed loop, how many callers send requests.
        arrivals: "poisson" for random times, as from many independent clients, or "even".
        seed: the same seed gives the same random times.
        content_type: the body's type, for HTTP.
        timeout: seconds that a caller waits for an answer.

    Raises TutorialError if an address is wrong, or if no request gets an answer.
    """
    addresses = [addresses] if isinstance(addresses, str) else addresses
    options = {"seconds": seconds, "rate": rate, "callers": callers, "arrivals": arrivals}
    options |= {"seed": seed, "type": content_type, "timeout": timeout}
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tutorial.load", *addresses, *flags]
    ended = subprocess.run(command, input=body, capture_output=True)
    if ended.returncode:
        raise TutorialError(ended.stderr.decode().strip().rpartition("\n")[2])
    result = Result(**json.loads(ended.stdout))
    if result.answers and all(status == BROKEN for _, _, status in result.answers):
        raise TutorialError(f"no server answers at {', '.join(addresses)}: is it running?")
    return result


def over_http(session: aiohttp.ClientSession, url: str, content_type: str, body: bytes) -> Ask:
    """Return a function that posts the body over an idle connection, or over a new one."""
    headers = {"Content-Type": content_type}

    async def ask() -> int:
        try:
            async with session.post(url, data=io.BytesIO(body), headers=headers) as response:
                await response.read()
                return response.status
        except aiohttp.ClientError:
            return BROKEN

    return ask


def over_grpc(address: str, body: bytes) -> Ask:
    """Return a function that sends the body, a serialized PredictRequest, over one channel."""
    import grpc  # only here, because the import is slow

    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    predict = grpc.aio.insecure_channel(address, options=options).unary_unary(PREDICT)

    async def ask() -> int | str:
        try:
            await predict(body)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return GOOD

    return ask


def choose(session: aiohttp.ClientSession, address: str, content_type: str, body: bytes) -> Ask:
    """Return the function that sends the body to an address; the scheme decides how."""
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname:
        return over_http(session, address, content_type, body)
    if parts.scheme == "grpc" and parts.port:
        return over_grpc(parts.netloc, body)
    raise TutorialError(
        f"{address} is not an address such as http://host:9696/ or grpc://host:8500"
    )


def schedule(rate: float, seconds: float, arrivals: str, seed: int) -> Iterator[float]:
    """Yield the times at which requests are due, in seconds from the start."""
    if arrivals == "even":
        yield from (number / rate for number in range(int(rate * seconds)))
        return
    chance, due = random.Random(seed), 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        yield due


async def load(asks: list[Ask], options: argparse.Namespace) -> Result:
    """Send the requests, and wait for every answer."""
    answers: list[tuple[float, float, int | str]] = []
    in_turn, begun, cpu = itertools.cycle(asks), time.monotonic(), time.process_time()

    async def one(due: float) -> None:
        try:
            async with asyncio.timeout(options.timeout):
                status = await next(in_turn)()
        except (OSError, TimeoutError, ValueError):
            status = BROKEN
        answers.append((due, time.monotonic() - begun - due, status))

    async def again_and_again() -> None:
        while (now := time.monotonic() - begun) < options.seconds:
            await one(now)

    asking = [asyncio.ensure_future(again_and_again()) for _ in range(options.callers)]
    if options.rate:
        for due in schedule(options.rate, options.seconds, options.arrivals, options.seed):
            await asyncio.sleep(begun + due - time.monotonic())
            asking.append(asyncio.ensure_future(one(due)))
    await asyncio.gather(*asking)
    return Result(options.seconds, time.process_time() - cpu, answers)


def main() -> None:
    """Read the body from stdin, run the load, print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("addresses", nargs="+", help="http://host:port/path or grpc://host:port")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0, help="open loop: requests a second")
    parser.add_argument("--callers", type=int, default=0, help="closed loop: how many callers")
    parser.add_argument("--arrivals", choices=("poisson", "even"), default="poisson")
    parser.add_argument("--seed", type=int, default=0, help="of the random arrivals")
    parser.add_argument("--type", default="application/octet-stream", help="content type, for HTTP")
    parser.add_argument("--timeout", type=float, default=30, help="seconds to wait for an answer")
    options = parser.parse_args()
    body = sys.stdin.buffer.read()

    async def run() -> Result:
        connections = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT)
        async with aiohttp.ClientSession(connector=connections) as session:
            asks = [choose(session, address, options.type, body) for address in options.addresses]
            return await load(asks, options)

    try:
        json.dump(asdict(asyncio.run(run())), sys.stdout)
    except TutorialError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
