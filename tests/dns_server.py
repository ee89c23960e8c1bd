"""A name server for one machine: as a cluster's, it knows which pods are behind a name now."""

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

A, RESPONSE, TTL = 1, 0x8400, 0  # type of record; flags of an authoritative answer; seconds


@contextmanager
def serve(addresses: list[str]) -> Iterator[int]:
    """Answer on a free UDP port, which it yields, with the addresses that the list has then."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, socket = self.request
            socket.sendto(answer(query, list(addresses)), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def answer(query: bytes, addresses: list[str]) -> bytes:
    """Return the reply to a query, per RFC 1035: its question, and a record for each address.

    A question for anything but an IPv4 address gets an empty answer.
    """
    end = query.index(b"\0", 12) + 5  # the name's final zero, then type and class
    question = query[12:end]
    (kind,) = struct.unpack("!H", question[-4:-2])
    found = addresses if kind == A else []
    records = [
        b"\xc0\x0c" + struct.pack("!HHIH4B", A, 1, TTL, 4, *map(int, address.split(".")))
        for address in found
    ]
    header = query[:2] + struct.pack("!HHHHH", RESPONSE, 1, len(found), 0, 0)
    return header + question + b"".join(records)
