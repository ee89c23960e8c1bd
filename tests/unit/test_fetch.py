"""gateway/fetch: what is never opened, and where every download ends.

The addresses are those of the OWASP cheat sheet on server-side request forgery, of the tests of
Stripe's smokescreen, and what requests-hardened 1.3 was found to let through.
"""

import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from contextlib import contextmanager
from functools import partial
from unittest import mock

import pytest

from gateway import fetch as module
from gateway.errors import MAX_BYTES, BlockedError, CallerLeftError, ImageError
from gateway.fetch import Origin, fetch, is_public, read_origins, split
from tutorial.hostile import answering, dripping, tcp_server
from tutorial.processes import wait_until

OK = b"HTTP/1.1 200 OK\r\n"

SPECIAL = " ".join(
    (
        "0.0.0.0 0.1.2.3 127.0.0.1 127.255.255.254",  # this host
        "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1",  # private
        "100.64.0.1 100.100.100.200",  # carrier-grade NAT; the metadata of one cloud
        "168.63.129.16",  # Azure's inside, on a public-looking address
        "169.254.169.254 169.254.170.2",  # link-local: the metadata of most clouds
        "192.0.0.1 192.0.0.9 192.0.0.192 192.88.99.1 198.18.0.1 198.19.255.255",  # protocols
        "192.0.2.1 198.51.100.1 203.0.113.1",  # documentation
        "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255",  # multicast, reserved
        ":: ::1 ::127.0.0.1 ::8.8.8.8",  # this host, IPv4-compatible
        "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1",  # IPv4-mapped and -translated
        "64:ff9b::7f00:1 64:ff9b:1::7f00:1 2002:7f00:1::1",  # NAT64, 6to4
        "2001::1 2001:0:7f00:1::1 2001:2::1 2001:10::1 2001:20::1",  # Teredo, ORCHIDv2
        "100::1 2001:db8::1 3ffe::1 3fff::1 4000::1 5f00::1",  # discard, documentation, unused
        "fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1",  # local, multicast
    )
).split()
OF_THIS_HOST = ["2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "0", "::ffff:7f00:1"]
PUBLIC = " ".join(
    (
        "1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.1 168.63.129.15 172.15.255.255",
        "172.32.0.1 192.0.1.1 198.17.255.255 223.255.255.255",
        "2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001:800::200e",
    )
).split()


@pytest.fixture
def opened(monkeypatch) -> mock.Mock:
    """What is called to open a connection; each is refused."""
    opened = mock.Mock(side_effect=ConnectionRefusedError)
    monkeypatch.setattr(socket, "create_connection", opened)
    return opened


@pytest.fixture
def names(monkeypatch) -> dict[str, list[str]]:
    """Names, and the addresses to which they lead; no others exist, but numbers stay numbers."""
    known: dict[str, list[str]] = {}
    really = socket.getaddrinfo

    def getaddrinfo(host, port, family=0, type=0):
        return [
            entry
            for address in known.get(host, [host])
            for entry in really(address, port, family, type, flags=socket.AI_NUMERICHOST)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def fetch_from(behave, scheme="http", **options) -> bytes:
    """Fetch from a hostile server on this machine, which is allowed."""
    with tcp_server(behave) as port:
        address = f"{scheme}://127.0.0.1:{port}/"
        return fetch(address, allowed_origins=read_origins(address), **options)


@contextmanager
def refused(kind: str, words: str | None = None):
    """Check that the block raises an error of this kind, with these words."""
    with pytest.raises(ImageError, match=words) as caught:
        yield
    assert getattr(caught.value, "kind", "bad-picture") == kind


def refusal(url: str, **options) -> str:
    """Return what the client is told about this URL, which is blocked."""
    with pytest.raises(BlockedError) as caught:
        fetch(url, **options)
    return str(caught.value)


# Which addresses


@pytest.mark.parametrize("address", SPECIAL + PUBLIC)
def test_is_public_accepts_public_addresses_only(address):
    assert is_public(address) == (address in PUBLIC)


@pytest.mark.parametrize("address", SPECIAL + OF_THIS_HOST)
def test_fetch_connects_to_no_special_address(address, opened, names):
    plain = address.partition("%")[0]
    names["only.example"] = [plain]
    names["first.example"], names["last.example"] = [plain, "8.8.8.8"], ["8.8.8.8", plain]
    host = f"[{address.replace('%', '%25')}]" if ":" in address else address
    for url in (f"http://{host}/", f"https://{host}/", *(f"http://{name}/" for name in names)):
        refusal(url)
    opened.assert_not_called()


def test_fetch_tries_all_addresses_of_a_name(opened, names):
    names["two.example"] = ["2606:4700:4700::1111", "1.1.1.1"]
    with pytest.raises(ImageError, match="cannot be reached"):
        fetch("https://two.example/")
    addresses, timeouts = zip(*(call.args for call in opened.call_args_list), strict=True)
    assert addresses == (("2606:4700:4700::1111", 443), ("1.1.1.1", 443))
    assert timeouts == (pytest.approx(2.5, abs=0.2), pytest.approx(5, abs=0.2))


def test_fetch_resolves_a_name_once(opened, monkeypatch):
    answers = [[(socket.AF_INET, 1, 6, "", (host, 80))] for host in ("8.8.8.8", "127.0.0.1")]
    getaddrinfo = mock.Mock(side_effect=answers)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ImageError):
        fetch("http://rebinding.example/")
    assert [call.args[0] for call in opened.call_args_list] == [("8.8.8.8", 80)]
    assert getaddrinfo.call_count == 1


def test_fetch_checks_the_peer_before_it_sends(monkeypatch):
    heard = []
    with tcp_server(lambda connection: heard.append(connection.recv(99))) as port:
        inside = socket.create_connection(("127.0.0.1", port))
        monkeypatch.setattr(socket, "create_connection", lambda address, timeout: inside)
        refusal("http://8.8.8.8/")
        wait_until(lambda: heard, timeout=5, what="the server to hear something")
    assert heard == [b""]


# Which URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "t-shirt.jpg",
        "//8.8.8.8/",
        "file:///etc/passwd",
        "ftp://8.8.8.8/",
        "data:,x",
        "gopher://8.8.8.8/",
        "http:8.8.8.8",
        "http://",
        "http:///x",
        "http://[",
        "http://a b/",
        "http://a..b/",
        "http://8.8.8.8:22/",
        "http://8.8.8.8:0/",
        "http://8.8.8.8:8080/",
        "http://8.8.8.8:99999/",
        "http://user@8.8.8.8/",
        "http://user:password@8.8.8.8/",
        "http://no-such-name.invalid/",
        "http://8.8.8.8/" + "x" * 9000,
        "http://127.0.0.1/",
    ],
)
def test_fetch_gives_every_blocked_url_the_same_message(url, opened, names):
    assert refusal(url) == str(BlockedError())
    opened.assert_not_called()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("HTTP://Example.COM", (Origin("http", "example.com", 80), "/")),
        ("https://example.com:80/a b?c=d#e", (Origin("https", "example.com", 80), "/a%20b?c=d")),
        ("http://[::1]:81/", (Origin("http", "::1", 81), "/")),
        ("http://bücher.example/ü", (Origin("http", "xn--bcher-kva.example", 80), "/%C3%BC")),
        ("http://a.example\\@b.example/", (Origin("http", "a.example", 80), "/%5C@b.example/")),
        ("http://a.example/\r\nX: y", (Origin("http", "a.example", 80), "/%0D%0AX:%20y")),
        ("http://a.example./", (Origin("http", "a.example", 80), "/")),  # not for Host and SNI
        ("http://a.example/%2b%2B%?s=%2f", (Origin("http", "a.example", 80), "/%2b%2B%?s=%2f")),
    ],
)
def test_split_reads_a_url(url, wanted):
    assert split(url) == wanted


# What else is allowed


def test_fetch_compares_allowed_origins_as_a_whole(picture_server):
    folder, address = picture_server
    (folder / "a.png").write_bytes(b"bytes")
    allowed = read_origins(f" https://other.example/, {address}/ , ")
    assert fetch(f"{address}/a.png", allowed_origins=allowed) == b"bytes"
    for near in (
        address.replace("127.0.0.1", "localhost"),
        address.replace("http:", "https:"),
        address + "0",
        address.replace("//", "//user@"),
        address + "@8.8.8.8:22",
    ):
        refusal(f"{near}/a.png", allowed_origins=allowed)


@pytest.mark.parametrize(
    "text",
    ["http://a:81", "http://a/ x/", "http://a/?", "a:81/", "*", "file:///", "http://u@a/"],
)
def test_read_origins_refuses_what_is_no_origin(text):
    with pytest.raises(ValueError, match="is not an origin such as http://127"):
        read_origins(text)


# Redirects


def redirecting(*targets: str, delay: float = 0):
    """A server that sends its nth visitor to the nth target, and later ones to a picture."""
    targets = iter(targets)

    def behave(connection):
        connection.recv(65536)
        time.sleep(delay)
        if target := next(targets, None):
            head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nSet-Cookie: a=b\r\n\r\n"
            connection.sendall(head.encode())
        else:
            connection.sendall(OK + b"\r\nbytes")

    return behave


def test_fetch_follows_three_redirects_at_most():
    assert fetch_from(redirecting("/a", "?b", "c")) == b"bytes"
    with pytest.raises(ImageError, match="more than 3 times"):
        fetch_from(redirecting("/a", "/b", "/c", "/d"))


def test_fetch_follows_a_redirect_to_the_bytes_that_it_names():
    paths = []
    answer = redirecting("/ü%2b")

    def behave(connection):
        paths.append(connection.recv(65536, socket.MSG_PEEK).split()[1])
        answer(connection)

    assert fetch_from(behave) == b"bytes"
    assert paths == [b"/", b"/%C3%BC%2b"]


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/",
        "http://[::1]/",
        "http://127.0.0.1:1/",
        "http://user@8.8.8.8/",
        "http://8.8.8.8:22/",
        "file:///etc/passwd",
        "http://inside.example/",
    ],
)
def test_fetch_checks_every_redirect(target, names):
    names["inside.example"] = ["192.168.0.1"]
    counted = mock.patch.object(socket, "create_connection", wraps=socket.create_connection)
    with counted as connect, pytest.raises(BlockedError):
        fetch_from(redirecting(target))
    assert connect.call_count == 1


# What is sent


def test_fetch_sends_no_cookies_or_passwords_and_uses_no_proxy(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1/")
    heard, answer = [], redirecting("/again")

    def behave(connection):
        heard.append(connection.recv(65536, socket.MSG_PEEK))
        answer(connection)

    fetch_from(behave, user_agent="me/1 (me@example.com)")
    assert len(heard) == 2
    for request in heard:
        lines = request.decode().lower().splitlines()
        assert "user-agent: me/1 (me@example.com)" in lines
        assert lines[1].startswith("host: 127.0.0.1:")
        assert "accept-encoding: identity" in lines
        names = {line.partition(":")[0] for line in lines[1:] if line}
        assert names == {"host", "user-agent", "accept", "accept-encoding", "connection"}


# How much


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (OK + b"Content-Length: 99999999999\r\n\r\n", "bad-picture", "larger than 10 MB"),
        (OK + b"\r\n" + bytes(MAX_BYTES + 1), "bad-picture", "larger than 10 MB"),
        (OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b", "bad-picture", "compressed"),
        (OK + b"Content-Encoding: aws-chunked,gzip\r\n\r\n", "bad-picture", "compressed"),
        (OK + b"Content-Length: 100\r\n\r\nbytes", "unreachable-address", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nby", "unreachable-address", "breaks off"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "remote-status", "status 404"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "remote-status", "status 304"),
        (b"HTTP/1.1 206 Partial Content\r\n\r\nx", "remote-status", "status 206"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "remote-status", "status 302, but with no other"),
        (OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", "unreachable-address", "cannot be reached"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", "unreachable-address", "cannot be reached"),
        (b"220 smtp.example ESMTP\r\n", "unreachable-address", "cannot be reached"),
        (
            b"HTTP/1.1 302 X\r\nLocation: http://[\r\n\r\n",
            "unreachable-address",
            "cannot be reached",
        ),
        (b"", "unreachable-address", "cannot be reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fetch_refuses_a_response_that_is_no_use(answer, kind, words):
    with refused(kind, words):
        fetch_from(answering(answer))


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"\r\nbytes", b"bytes"),
        (OK + b"Content-Length: 5\r\n\r\nbytes, and more", b"bytes"),
        (OK + b"Content-Length: soon\r\n\r\nbytes", b"bytes"),
        (OK + b"Content-Encoding: Identity\r\n\r\nbytes", b"bytes"),
        (OK + b"Content-Encoding:\r\n\r\nbytes", b"bytes"),
        (OK + b"Content-Encoding: aws-chunked\r\n\r\nbytes", b"bytes"),
        (OK + b"Content-Encoding: UTF-8\r\n\r\nbytes", b"bytes"),
        (b"HTTP/1.1 203 Transformed\r\n\r\nbytes", b"bytes"),
        (b"HTTP/1.1 102 X\r\n\r\nHTTP/1.1 103 X\r\nLink: a\r\n\r\n" + OK + b"\r\nbytes", b"bytes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nby\r\n3\r\ntes\r\n0\r\n\r\n", b"bytes"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(MAX_BYTES), bytes(MAX_BYTES)),
    ],
    ids=lambda value: value[:60].decode() if 5 < len(value) < 200 else "",
)
def test_fetch_reads_a_response_that_is_of_use(answer, body):
    counted = []
    assert fetch_from(answering(answer), count=counted.append) == body
    assert sum(counted) == len(body)


def test_fetch_stops_reading_a_response_that_is_too_large():
    counted = []
    with pytest.raises(ImageError, match="larger than 10 MB"):
        fetch_from(answering(OK + b"\r\n" + bytes(5 * MAX_BYTES)), count=counted.append)
    assert MAX_BYTES < sum(counted) <= MAX_BYTES + module.PIECE


def test_fetch_needs_little_memory_for_tiny_chunks():
    answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\nxx\r\n" * 100_000 + b"0\r\n\r\n"
    tracemalloc.start()
    size = len(fetch_from(answering(answer), timeout=60))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 200_000
    assert peak < 2**20


# How long


@pytest.mark.parametrize(
    "behave",
    [
        dripping(OK + b"\r\n", every=0.1, times=30),
        dripping(OK + b"Content-Length: 30\r\n\r\n", every=0.1, times=30),
        dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n1e\r\n", every=0.1, times=30),
        dripping(OK + b"X: ", every=0.1, times=30),
        dripping(b"", every=0.1, times=30),
        dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, every=0.1, times=30),
        lambda connection: time.sleep(3),
        redirecting("/again", "/again", delay=0.3),
    ],
    ids=["body", "known length", "chunk", "headers", "status", "100", "silence", "redirects"],
)
def test_fetch_leaves_a_slow_server_on_time(behave):
    begun = time.monotonic()
    with refused("slow-address", r"too slow.*within 0.5 seconds"):
        fetch_from(behave, timeout=0.5)
    assert 0.4 < time.monotonic() - begun < 1


def test_fetch_gives_the_tls_handshake_the_same_time():
    begun = time.monotonic()
    with refused("slow-address"):
        fetch_from(lambda connection: time.sleep(3), "https", timeout=0.3)
    assert time.monotonic() - begun < 2  # a busy machine needs some for the certificate


def test_fetch_waits_for_the_first_byte_as_long_as_there_is_time():
    def behave(connection):
        time.sleep(2.5)
        answering(OK + b"\r\nbytes")(connection)

    assert fetch_from(behave) == b"bytes"


# DNS


def failing(host, *_, **__):
    """Do what getaddrinfo does, when name servers answer with an error."""
    number = socket.EAI_NONAME if host == "no.example" else socket.EAI_AGAIN
    raise socket.gaierror(number, "told to fail")


def test_fetch_tells_a_failing_name_server_from_an_unknown_name(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", failing)
    refusal("http://no.example/")
    with refused("lookup-failed", "try again"):
        fetch("http://any.example/")


def test_fetch_leaves_a_slow_name_server_on_time_and_others_are_looked_up(opened, monkeypatch):
    answer_now = threading.Event()
    slow = mock.Mock(side_effect=lambda: answer_now.wait(10) and [])

    def getaddrinfo(host, *_, **__):
        return slow() if host == "slow.example" else [(socket.AF_INET, 1, 6, "", ("8.8.8.8", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(module, "_free_lookups", threading.BoundedSemaphore(3))
    begun = time.monotonic()
    for number in (1, 2):
        with refused("lookup-failed"):
            fetch("http://slow.example/", timeout=0.2)
        with refused("unreachable-address"):
            fetch("http://quick.example/")
        assert slow.call_count == number
    with refused("lookup-failed"):
        fetch("http://slow.example/", timeout=0.2)
    with refused("lookup-failed"):
        fetch("http://quick.example/")  # at once: too many are looked up
    assert time.monotonic() - begun < 2
    lookups = [thread for thread in threading.enumerate() if thread.name == "lookup"]
    assert len(lookups) == 3
    assert all(thread.daemon for thread in lookups)  # the process can end without them
    answer_now.set()
    for thread in lookups:
        thread.join()
    with refused("unreachable-address"):
        fetch("http://quick.example/")


def test_fetch_ends_when_the_caller_leaves():
    """The server takes the request and sends nothing."""
    begun = time.monotonic()
    with tcp_server(lambda _: time.sleep(2)) as port, pytest.raises(CallerLeftError):
        address = f"http://127.0.0.1:{port}/"
        fetch(
            address,
            allowed_origins=read_origins(address),
            caller_left=lambda: time.monotonic() > begun + 0.2,
        )
    assert time.monotonic() - begun < 1.5


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for pictures.example that signs itself, with its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "pictures.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example"]
    done = subprocess.run(
        [*command.split(), *names, "-keyout", "-"], check=True, capture_output=True
    )  # without -out, the certificate follows the key
    path.write_bytes(done.stdout)
    return path


def test_fetch_checks_name_and_issuer_of_a_certificate(certificate, names, monkeypatch):
    names["pictures.example"] = names["other.example"] = ["127.0.0.1"]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def behave(connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            answering(OK + b"\r\nbytes")(tls)

    with tcp_server(behave) as port:
        right, wrong = (f"https://{name}.example:{port}/" for name in ("pictures", "other"))
        allowed = read_origins(f"{right}, {wrong}")
        with refused("bad-certificate", "self-signed"):
            fetch(right, allowed_origins=allowed)  # its signer is not trusted
        trusting = partial(ssl.create_default_context, cafile=certificate)
        monkeypatch.setattr(module, "_tls", trusting)
        assert fetch(right, allowed_origins=allowed) == b"bytes"
        with refused("bad-certificate", "Hostname mismatch"):
            fetch(wrong, allowed_origins=allowed)
