"""The deployed gateway and untrusted input: large and damaged pictures, servers that never end."""

import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.integration.test_gateway_process import processes_of
from tutorial import services
from tutorial.hostile import dripping, scan_bomb, tcp_server
from tutorial.processes import free_port

AT_ONCE = 8


@pytest.fixture
def slow_origin():
    """The address of a server that sends a byte now and then, for longer than anybody waits."""
    with tcp_server(dripping(b"HTTP/1.1 200 OK\r\n\r\n", every=0.2, times=50)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def admin_port() -> int:
    """Where the gateway says how it is."""
    return free_port()


@pytest.fixture
def gateway(contract_file, fake_model, slow_origin, admin_port):
    """A gateway under gunicorn that may ask the slow origin: (its address, the server)."""
    port = free_port()
    with services.start_gateway(
        port,
        admin_port=admin_port,
        model_address=fake_model[1],
        contract=contract_file,
        allowed_origins=slow_origin,
    ) as server:
        yield f"http://127.0.0.1:{port}", server


@pytest.fixture(scope="module")
def large_pictures() -> list[bytes]:
    """As much memory and work as the limits let through, most of it lying on its side."""
    side = Image.Exif()
    side[0x0112] = 6
    square, smaller = Image.new("RGB", (5000, 5000)), Image.new("RGB", (3872, 3872))
    options = {"progressive": True, "subsampling": 0, "exif": side}
    whole = [
        encoded(square, "JPEG", **options),
        encoded(square.convert("CMYK"), "JPEG", **options),
        encoded(square.convert("RGBA"), "PNG", compress_level=1, exif=side),
        encoded(smaller, "WEBP", lossless=True, method=0, exif=side),
        scan_bomb((5000, 5000), 20),
    ]
    return [*whole, *(data[:-50] for data in whole)]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def predict(address: str, data: bytes) -> tuple[int, float]:
    """Status and seconds of an upload."""
    begun = time.monotonic()
    answer = requests.post(f"{address}/predict", files={"file": data}, timeout=60)
    return answer.status_code, time.monotonic() - begun


def peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("the system does not say how much memory a process took at most")
    return int(re.search(r"^VmHWM:\s+(\d+)", status.read_text(), re.MULTILINE)[1]) / 1024


def test_large_pictures_are_answered_one_by_one(gateway, large_pictures):
    statuses = [predict(gateway[0], data)[0] for data in large_pictures]
    assert statuses == [200] * 5 + [400] * 5


def test_medium_pictures_at_once_take_little_memory(gateway):
    options = {"progressive": True, "subsampling": 0}
    medium = [
        encoded(Image.new("CMYK", (3535, 3535)), "JPEG", **options),
        encoded(Image.new("RGB", (2738, 2738)), "WEBP", lossless=True, method=0),
    ]
    address, server = gateway
    with ThreadPoolExecutor(AT_ONCE) as clients:
        statuses = {status for status, _ in clients.map(lambda d: predict(address, d), medium * 8)}
    assert statuses <= {200, 503}
    assert max(map(peak_megabytes, processes_of(server))) < 400


def test_large_pictures_at_once_take_turns_and_little_memory(gateway, admin_port, large_pictures):
    address, server = gateway
    with ThreadPoolExecutor(AT_ONCE) as clients:
        answers = list(clients.map(lambda data: predict(address, data), large_pictures * 2))
    assert {status for status, _ in answers} <= {200, 400, 503}
    assert services.http_status(f"http://127.0.0.1:{admin_port}/readyz") == 200
    assert max(map(peak_megabytes, processes_of(server))) < 400


def test_slow_origins_hold_nobody_else(gateway, admin_port, slow_origin):
    address, _ = gateway

    def ask(_) -> tuple[int, str, float]:
        begun = time.monotonic()
        answer = requests.post(f"{address}/predict", json={"url": slow_origin}, timeout=60)
        return answer.status_code, answer.json()["detail"], time.monotonic() - begun

    with ThreadPoolExecutor(AT_ONCE) as clients:
        waiting = [clients.submit(ask, n) for n in range(AT_ONCE)]
        while not all(answer.done() for answer in waiting):
            alive = requests.get(f"http://127.0.0.1:{admin_port}/livez", timeout=1)
            assert alive.status_code == 200
            assert requests.get(address, timeout=1).status_code == 200
            time.sleep(0.2)
    for status, detail, seconds in (answer.result() for answer in waiting):
        assert status == 400
        assert "too slow" in detail
        assert seconds < 6
