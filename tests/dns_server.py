"""A name server for one machine: as a cluster's, it knows which pods are behind a name now."""

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

A, RESPONSE, TTL = 1, 0x8400, 0  # type of record; flags of an authoritative answer; seconds


class Names:
    """What is answered, to any question for an IPv4 address; others get an empty answer."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0


@contextmanager
def serve(names: Names) -> Iterator[int]:
    """Answer on a free UDP port of 127.0.0.1, which it gives."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, socket = self.request
            socket.sendto(answer(query, names), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def answer(query: bytes, names: Names) -> bytes:
    """The reply to a query, per RFC 1035: its question, and a record for each address."""
    end = query.index(b"\0", 12) + 5  # the name's final zero, then type and class
    question = query[12:end]
    (kind,) = struct.unpack("!H", question[-4:-2])
    addresses = list(names.addresses) if kind == A else []
    names.asked += kind == A
    header = query[:2] + struct.pack("!HHHHH", RESPONSE, 1, len(addresses), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH4B", A, 1, TTL, 4, *map(int, address.split(".")))
        for address in addresses
    )
    return header + question + records
