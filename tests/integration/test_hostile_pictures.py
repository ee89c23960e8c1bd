"""The deployed gateway and untrusted input: large and damaged pictures, servers that never end."""

import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image

from gateway.errors import MAX_BYTES
from tests.gateway_process import memory_limit
from tests.pictures import chunk, encoded, png
from tutorial.hostile import dripping, scan_bomb, tcp_server

AT_ONCE = 8


@pytest.fixture
def large_pictures() -> list[bytes]:
    """As much memory and work as the limits let through, most of it lying on its side."""
    side = Image.Exif()
    side[0x0112] = 6
    square, smaller = Image.new("RGB", (5000, 5000)), Image.new("RGB", (3872, 3872))
    options = {"progressive": True, "subsampling": 0, "exif": side}
    whole = [
        encoded(square, "JPEG", **options),
        encoded(Image.new("CMYK", (4472, 4472)), "JPEG", **options),
        encoded(square.convert("RGBA"), "PNG", compress_level=1, exif=side),
        encoded(smaller, "WEBP", lossless=True, method=0, exif=side),
        scan_bomb((5000, 5000), 20),
    ]
    return [*whole, *(data[:-50] for data in whole)]


def peak_megabytes(gateway) -> float:
    """Return the most memory that one of the gateway's processes has taken."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not say how much memory a process took at most")
    texts = [Path(f"/proc/{process.pid}/status").read_text() for process in gateway.processes()]
    peaks = [re.search(r"^VmHWM:\s+(\d+)", text, re.MULTILINE)[1] for text in texts]
    return max(map(int, peaks)) / 1024


def statuses_at_once(gateway, pictures) -> set[int]:
    with ThreadPoolExecutor(AT_ONCE) as clients:
        return {answer.status_code for answer in clients.map(gateway.predict, pictures)}


def test_large_pictures_take_turns_and_little_memory(start_gateway, large_pictures):
    medium = [
        encoded(Image.new("CMYK", (3535, 3535)), "JPEG", progressive=True, subsampling=0),
        encoded(Image.new("RGB", (2738, 2738)), "WEBP", lossless=True, method=0),
    ]
    gateway = start_gateway()
    one_by_one = [gateway.predict(data).status_code for data in large_pictures]
    assert one_by_one == [200] * 5 + [400] * 5
    assert statuses_at_once(gateway, medium * 8) <= {200, 503}
    assert statuses_at_once(gateway, large_pictures * 2) <= {200, 400, 503}
    assert gateway.admin("/readyz").status_code == 200
    assert peak_megabytes(gateway) < 400


@pytest.mark.timed
def test_requests_made_to_take_memory_take_little(start_gateway):
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20 - 1)))
    with_text = png()[:33] + text * 60 + png()[33:]
    webp = encoded(Image.new("RGB", (3850, 3850)), "WEBP", lossless=True, method=0)
    uploads = ([with_text] * 15, [webp] * 8, [encoded(Image.new("L", (5000, 5000)))] * 32)
    uploads += ([bytes(MAX_BYTES)] * 2,) * 3
    endless = dripping(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(9_900_000), every=0.2, times=50)
    with tcp_server(endless) as port, ThreadPoolExecutor(AT_ONCE) as clients:
        url = f"http://127.0.0.1:{port}/"
        gateway = start_gateway(allowed_origins=url)
        bodies = [{"files": [("file", data) for data in upload]} for upload in uploads]
        bodies += [{"files": None, "json": {"urls": [url] * 8}}]
        json = {"data": b"[" + b"{}," * 6_600_000, "headers": {"Content-Type": "application/json"}}
        bodies += [{"files": None, **json}]
        processes = gateway.processes()
        with memory_limit(processes, 512):
            waiting = [clients.submit(gateway.predict, **body) for body in bodies]
            while not all(answer.done() for answer in waiting):
                assert gateway.admin("/livez").status_code == 200
                time.sleep(0.2)
        assert gateway.processes() == processes, "one was killed"
    statuses = [future.result().status_code for future in waiting]
    assert set(statuses) <= {200, 400, 413, 503, 504}
    assert statuses[-1] == 413
    assert peak_megabytes(gateway) < 400


@pytest.mark.timed
def test_slow_origins_delay_no_other_client(start_gateway):
    drip = dripping(b"HTTP/1.1 200 OK\r\n\r\n", every=0.2, times=50)  # longer than a client waits
    with tcp_server(drip) as port, ThreadPoolExecutor(AT_ONCE) as clients:
        slow = f"http://127.0.0.1:{port}/"
        gateway = start_gateway(allowed_origins=slow)
        ask = lambda: gateway.predict(files=None, json={"url": slow})  # noqa: E731
        waiting = [clients.submit(ask) for _ in range(AT_ONCE)]
        while not all(answer.done() for answer in waiting):
            assert gateway.admin("/livez").status_code == 200
            assert requests.get(gateway.address, timeout=1).status_code == 200
            time.sleep(0.2)
    for answer in (future.result() for future in waiting):
        assert answer.status_code == 400
        assert "too slow" in answer.json()["detail"]
        assert answer.elapsed.total_seconds() < 6
