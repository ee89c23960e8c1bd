"""Download a picture from an untrusted URL: from the public internet only, and within limits."""

import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from typing import NamedTuple
from urllib.parse import quote, urljoin

import certifi
from urllib3.util import parse_url

from gateway import USER_AGENT
from gateway.deadline import Deadline
from gateway.errors import MAX_BYTES, BlockedError, ImageError, RemoteError

DEFAULT_PORTS = {"http": 80, "https": 443}  # no other ports, unless the origin is trusted
MAX_URL = 8192  # characters
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
MAX_LOOKUPS = 512  # DNS lookups at once, more than there are downloads at once
PIECE = 64 * 1024  # bytes of a body that are read at once
PLAIN = {"", "identity", "aws-chunked", "utf-8", "binary"}  # Content-Encoding of plain files
TARGET = re.compile(r"[^:]+://[^\\/?#]*([^#]*)")  # path and query of a URL


class Origin(NamedTuple):
    """Name the server that a URL leads to."""

    scheme: str
    host: str  # a name or an address, IPv6 without brackets
    port: int


def split(url: str) -> tuple[Origin, str]:
    """Return the origin of a URL, and the path to request. Raises BlockedError for a bad URL.

    The path stays as it is, because a signature in it may cover every byte; what cannot be sent is
    encoded.
    """
    try:
        if len(url) > MAX_URL:
            raise ValueError("too long")
        parts = parse_url(url.strip())
        port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        if parts.scheme not in DEFAULT_PORTS or not parts.host or parts.auth:
            raise ValueError("not a plain web address")
        target = TARGET.match(url.strip())[1]
        path = quote(target, safe="%/?:@!$&'()*+,;=[]|", errors="surrogateescape")
    except (ValueError, KeyError) as error:
        raise BlockedError from error
    host = parts.host.strip("[]").removesuffix(".")
    return Origin(parts.scheme, host, port), path if path.startswith("/") else f"/{path}"


IPV6_IN_USE = ipaddress.ip_network("2000::/3")
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # looks public, but is the inside of Azure
        "192.0.0.0/24",  # for protocols; some of it counts as global
        "192.88.99.0/24",  # relays from IPv6 to IPv4
        "2001::/23",  # for protocols, such as Teredo with IPv4 inside
        "2002::/16",  # 6to4, with IPv4 inside
        "3ffe::/16",  # returned in 2006
        "3fff::/20",  # for documentation; unknown to older Pythons
    )
)


def is_public(address: str) -> bool:
    """Return whether an IP address is public, and belongs to a single machine."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip not in IPV6_IN_USE:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in NOT_PUBLIC)


_free_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)
LOOKUP_FAILED = ("lookup-failed", "the name in this address cannot be looked up now: try again")
FAILED_LOOKUPS = (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_MEMORY, socket.EAI_SYSTEM)


def resolve(origin: Origin, deadline: Deadline) -> list[str]:
    """Return all IP addresses of an origin's host, A and AAAA.

    A lookup cannot be stopped, so each has a thread that may outlive its request, and the process
    does not wait for it at its end.

    Raises BlockedError if there are none, RemoteError if DNS fails or is too slow.
    """
    found: Future = Future()

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))
        except Exception as error:
            found.set_exception(error)
        finally:
            _free_lookups.release()

    if not _free_lookups.acquire(blocking=False):
        raise RemoteError(*LOOKUP_FAILED)
    threading.Thread(target=look_up, name="lookup", daemon=True).start()
    try:
        for seconds in deadline.waits():
            with suppress(TimeoutError):
                return [entry[4][0] for entry in found.result(seconds)]
    except TimeoutError as error:
        raise RemoteError(*LOOKUP_FAILED) from error
    except (OSError, ValueError) as error:
        if isinstance(error, socket.gaierror) and error.errno in FAILED_LOOKUPS:
            raise RemoteError(*LOOKUP_FAILED) from error
        raise BlockedError from error


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())


def _open_first(addresses: list[str], port: int, deadline: Deadline) -> socket.socket:
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:  # each gets its share of the time
            return socket.create_connection((address, port), deadline.remaining() / left)
        except OSError as error:
            failure = error
    raise failure


def connect(origin: Origin, deadline: Deadline, *, trusted: bool) -> socket.socket:
    """Open a connection to the origin, with TLS for https.

    Raises BlockedError, before anything is opened, unless the origin is trusted or public; OSError
    if no server answers, TimeoutError at the deadline; RemoteError as `resolve` does.
    """
    addresses = resolve(origin, deadline)
    ports = DEFAULT_PORTS.values()
    if not (trusted or (origin.port in ports and all(map(is_public, addresses)))):
        raise BlockedError
    sock = _open_first(addresses, origin.port, deadline)
    try:
        if not (trusted or is_public(sock.getpeername()[0])):
            raise BlockedError
        if origin.scheme == "https":
            sock.settimeout(deadline.remaining())
            sock = _tls().wrap_socket(sock, server_hostname=origin.host)
    except BaseException:
        sock.close()
        raise
    return sock


class TimedStream(io.RawIOBase):
    """Wrap an open socket for http.client; every call ends by the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        """Take a socket; the caller closes it."""
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        self._sock.settimeout(self._deadline.remaining())
        self._sock.sendall(data)

    def readable(self) -> bool:
        """Return True: this stream is for reading."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Read what has arrived, at most as much as `buffer` holds."""
        for seconds in self._deadline.waits():
            self._sock.settimeout(seconds)
            with suppress(TimeoutError):
                return self._sock.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file to read the response from."""
        return io.BufferedReader(self, 64 * 1024)

    def close(self) -> None:
        """Leave the socket open: http.client calls this before the response is read."""


class FinalResponse(http.client.HTTPResponse):
    """Skip what a server sends before its answer: 102 Processing, 103 Early Hints."""

    def begin(self) -> None:
        """Read the status and the headers of the answer."""
        super().begin()
        while self.status < http.client.OK:
            self.headers = None
            super().begin()


def ask(
    sock: socket.socket, origin: Origin, path: str, deadline: Deadline, user_agent: str
) -> http.client.HTTPResponse:
    """Send a GET request; return the answer with its headers read and its body waiting."""
    connection = http.client.HTTPConnection(origin.host, origin.port)
    connection.response_class = FinalResponse
    connection.default_port = DEFAULT_PORTS[origin.scheme]  # which the Host header leaves out
    connection.sock = TimedStream(sock, deadline)
    headers = {
        "User-Agent": user_agent,
        "Accept": "image/jpeg, image/png, image/webp, image/gif, image/bmp",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def read_body(answer: http.client.HTTPResponse, count: Callable[[int], None]) -> bytes:
    """Return the body of a response. Raises ImageError for one that is of no use.

    `count` is called with the number of bytes of each piece that is read.
    """
    if answer.status not in (http.client.OK, http.client.NON_AUTHORITATIVE_INFORMATION):
        raise RemoteError("remote-status", f"the address answered with status {answer.status}")
    if answer.headers.get("Content-Encoding", "").strip().lower() not in PLAIN:
        raise ImageError("the address sends a compressed file: give that of a plain picture")
    announced = answer.length or 0
    body, piece = io.BytesIO(), memoryview(bytearray(PIECE))
    while announced <= MAX_BYTES and body.tell() <= MAX_BYTES and (size := answer.readinto(piece)):
        count(size)
        body.write(piece[:size])
    if max(announced, body.tell()) > MAX_BYTES:
        raise ImageError(f"the file is larger than {MAX_BYTES >> 20} MB")
    if body.tell() < announced:
        raise RemoteError("unreachable-address", "the download broke off before its end")
    return body.getvalue()


def location(answer: http.client.HTTPResponse) -> str:
    """Return where a redirect leads, which may be UTF-8. Raises RemoteError if nowhere."""
    found = answer.headers.get("Location")
    if found is None:
        said = f"the address answered with status {answer.status}, but with no other address"
        raise RemoteError("remote-status", said)
    return found.encode("latin-1").decode(errors="surrogateescape")


def fetch(
    url: str,
    *,
    allowed_origins: frozenset[Origin] = frozenset(),
    timeout: float = 5.0,
    user_agent: str = USER_AGENT,
    count: Callable[[int], None] = lambda number: None,
    caller_left: Callable[[], bool] = lambda: False,
) -> bytes:
    """Download a picture file of at most MAX_BYTES, within `timeout` seconds, DNS included.

    Args:
        url: an untrusted URL; every redirect is checked as it is.
        allowed_origins: servers that may be inside our network.
        timeout: seconds for all of it.
        user_agent: how the gateway introduces itself; some servers want a contact in it.
        count: called with the number of bytes of each piece; may raise to end the download.
        caller_left: returns whether the caller of the request has left.

    Raises ImageError, with a message for the client, if the URL is blocked, does not answer in
    time, or does not lead to a file that can be used; CallerLeftError.
    """
    deadline = Deadline.after(timeout, caller_left=caller_left)
    try:
        for _ in range(1 + MAX_REDIRECTS):
            origin, path = split(url)
            with connect(origin, deadline, trusted=origin in allowed_origins) as sock:
                answer = ask(sock, origin, path, deadline, user_agent)
                if answer.status not in REDIRECTS:
                    return read_body(answer, count)
                url = urljoin(url, location(answer))
    except ImageError:
        raise
    except TimeoutError as error:
        said = f"the address is too slow: the picture must be here within {timeout:.2g} seconds"
        raise RemoteError("slow-address", said) from error
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", error.reason)
        said = f"the server at this address has no safe connection: {why}"
        raise RemoteError("bad-certificate", said) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = "the server at this address cannot be reached, or breaks off"
        raise RemoteError("unreachable-address", said) from error
    raise RemoteError("remote-status", f"the address redirects more than {MAX_REDIRECTS} times")


def read_origins(text: str) -> frozenset[Origin]:
    """Return the origins in a comma-separated list such as "http://127.0.0.1:8081/".

    Raises ValueError for an entry that is not an origin and a slash.
    """
    origins = set()
    for entry in filter(None, map(str.strip, text.split(","))):
        try:
            origin, path = split(entry)
        except BlockedError:
            path = ""
        if path != "/" or not entry.endswith("/"):
            raise ValueError(f"{entry!r} is not an origin such as http://127.0.0.1:8081/")
        origins.add(origin)
    return frozenset(origins)
