"""Servers that lie, drip, break off, send elsewhere: the file comes whole from another mirror, or one line says why."""

import hashlib
import os
import random
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest

from lowland.data import DATASETS, Download, fetch, load, verify
from lowland.data import download as downloads
from tests.data.conftest import Small
from tests.hostile.data_tools import refused, special, within

NAME = "tinyshakespeare"


@dataclass
class Server:
    """Answers each request as a function says, with the connection, the path and where the range begins."""

    text: bytes
    port: int = 0
    scripts: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    brought: dict = field(default_factory=dict)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def serve(self, connection):
        with connection, suppress(OSError):
            connection.settimeout(10)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            path = request.split()[1].decode()
            asked = re.search(rb"Range: bytes=(\d+)-", request)
            start = int(asked[1]) if asked else None
            self.requests.append((path, start))
            self.scripts.get(path, honest)(Answer(self, connection, path), start)


@dataclass
class Answer:
    """One connection's."""

    server: Server
    connection: socket.socket
    path: str

    def send(self, *data):
        for piece in data:
            self.connection.sendall(piece if isinstance(piece, bytes) else piece.encode())

    def headed(self, body, *lines, status="200 OK", length=None):
        size = len(body) if length is None else length
        self.send("\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {size}", *lines, "", ""]))
        self.send(body)


def honest(answer, start):
    text = answer.server.text
    if start is None:
        answer.headed(text)
    else:
        answer.headed(
            text[start:], f"Content-Range: bytes {start}-{len(text) - 1}/{len(text)}", status="206 Partial Content"
        )


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The first mirror is scripted by the test; the second is honest."""
    small = Small(tmp_path / "data")
    small.contents[NAME]["input.txt"] = b"".join(b"line %d, of a text that is somewhat longer\n" % i for i in range(40))
    small.shrink(monkeypatch)
    monkeypatch.setenv("LOWLAND_DATA", str(small.root))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    text = small.contents[NAME]["input.txt"]
    served = Server(text)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served.port = listener.getsockname()[1]

        def accept():
            with suppress(OSError):
                while True:
                    threading.Thread(target=served.serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        download = Download("input.txt", (served.url("/first"), served.url("/second")), len(text), digest(text))
        monkeypatch.setitem(DATASETS, NAME, replace(DATASETS[NAME], downloads=(download,)))
        yield served
        listener.shutdown(socket.SHUT_RDWR)


def digest(data):
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def target(server, tmp_path):
    path = tmp_path / "data" / NAME / "input.txt"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def part(target):
    return target.with_name("input.txt.part")


def only(monkeypatch, *urls):
    source = DATASETS[NAME]
    monkeypatch.setitem(DATASETS, NAME, replace(source, downloads=(replace(source.downloads[0], urls=urls),)))


def redirect(to):
    return lambda answer, start: answer.headed(b"", f"Location: {to}", status="302 Found")


def raw(*pieces):
    return lambda answer, start: answer.send(*pieces)


def drip(*pieces, pause=0.05, count=100):
    def script(answer, start):
        for piece in (*pieces, *[b"x"] * count):
            answer.send(piece)
            time.sleep(pause)

    return script


def says(status="200 OK", *lines, body=b"", length=None):
    return lambda answer, start: answer.headed(body, *lines, status=status, length=length)


OK = b"HTTP/1.1 200 OK\r\n"
LIES = {
    # Addresses that are none, or that are not for us.
    **{f"redirect to {to!r}": redirect(to) for to in (
        "http://[", "http://[::1", "http://", "//[", "http://host:port/", "http://127.0.0.1:99999999/",
        "http://127.0.0.1:-1/", "http://" + "a" * 70 + ".example/", "http://a..b/", "http://ü\x00/", "http://\x7f/",
        "http://127.0.0.1:1/a b\tc", "file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x", "javascript:1",
        "", "http://127.0.0.1:1/", "http://user:password@[/", "https://127.0.0.1:1/", "http://%00/", "http://١/",
    )},
    "redirect to itself": redirect("/first"),
    "redirect without an address": says("302 Found"),
    "redirect of many kinds": says("300 Multiple Choices"),
    "redirect, permanent, to nowhere": says("308 Permanent Redirect", "Location: http://["),
    # Statuses.
    **{f"status {status}": says(status) for status in (
        "204 No Content", "205 Reset Content", "304 Not Modified", "401 Unauthorized", "404 Not Found",
        "407 Proxy Authentication Required", "416 Range Not Satisfiable", "418 \x1b[31mteapot\x07", "429 Slow Down",
        "500 " + "x" * 5000, "503 Busy", "599 ", "999 What",
    )},
    "no status": raw(b"\r\n\r\n"),
    "another protocol": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "nothing": raw(),
    "bytes without end of line": raw(b"x" * 70_000),
    "status in words": raw(b"HTTP/1.1 two hundred\r\n\r\n"),
    "status of 10^9": raw(b"HTTP/1.1 1000000000 OK\r\n\r\n"),
    "protocol of the future": raw(b"HTTP/9.9 200 OK\r\n\r\n"),
    "a header of 70,000 bytes": raw(OK, b"X: " + b"x" * 70_000 + b"\r\n\r\n"),
    "10,000 headers": raw(OK, b"X: y\r\n" * 10_000, b"\r\n"),
    "headers that are none": raw(OK, b"\xff\xfe\0\0: \x1b[2J\r\n:\r\n  x\r\n\r\n"),
    "continue, a thousand times": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    # Lengths.
    **{f"length {length!r}": says(length=length, body=b"x") for length in (
        "", "-1", "0", "1", "1e3", "many", 10**30, "0x10", "5, 5", "\x1b[31m",
    )},
    "two lengths": raw(OK, b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx"),
    "no length, no body": raw(OK, b"\r\n"),
    "no length, another body": raw(OK, b"\r\n", b"x" * 5000),
    # Pieces.
    **{f"chunks {name}": raw(OK, b"Transfer-Encoding: chunked\r\n\r\n", body) for name, body in {
        "of no number": b"zz\r\nxx\r\n", "negative": b"-5\r\nxxxxx\r\n", "huge": b"ffffffffffffffffffff\r\nxx",
        "cut": b"5\r\nxx", "endless line": b"1" * 70_000, "none": b"0\r\n\r\n", "wrong end": b"2\r\nxxyy\r\n0\r\n\r\n",
        "trailers": b"0\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        "extensions": b"2;" + b"x" * 60_000 + b"\r\nxx\r\n0\r\n\r\n",
    }.items()},
    "compressed": says("200 OK", "Content-Encoding: gzip", body=b"\x1f\x8b" + bytes(100)),
    # Ranges that nobody asked for, or that don't fit.
    **{f"range {extent!r}": says("206 Partial Content", f"Content-Range: {extent}", body=b"x" * 50) for extent in (
        "", "bytes", "bytes 0-", "bytes */100", "bytes 0-1/2", "bytes 5-9/10", "items 0-9/10", "bytes -1--2/*",
        "bytes 0-49/*", "bytes 99999999999999999999-5/5", "bytes \x1b]0;x\x07",
    )},
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
@pytest.mark.parametrize("there", [0, 100])
def test_a_lie_and_then_the_good_mirror(server, target, part, what, there, count):
    count("lies of a server")
    if there:
        part.write_bytes(server.text[:there])
    server.scripts["/first"] = LIES[what]
    with within(10):
        assert fetch(NAME) == [target]
    assert target.read_bytes() == server.text
    assert verify(NAME) == []
    assert server.requests[-1][0] == "/second"


def test_the_same_lies_alone_are_a_line_each(server, target, part, monkeypatch, count):
    """And nothing is put in place."""
    count("lies of a server", len(LIES))
    server.scripts["/first"] = redirect("/first")
    for number, (what, script) in enumerate(LIES.items()):
        only(monkeypatch, server.url(f"/{number}"))
        server.scripts[f"/{number}"] = script
        message = refused(lambda: fetch(NAME), "127.0.0.1", "could not be fetched")
        assert len(message) < 1000, what
        assert not target.exists(), what


def test_a_server_without_ranges_doesnt_shrink_what_is_there(server, target, part):
    part.write_bytes(server.text[:1000])
    sizes = []

    def broken(answer, start):
        answer.headed(server.text[:100], length=len(server.text))
        sizes.append(part.stat().st_size)

    server.scripts |= {"/first": broken, "/second": broken}
    refused(lambda: fetch(NAME), "the connection broke after 100 of")
    assert part.read_bytes() == server.text[:1000]
    assert sizes == [1000] * 2 * downloads.ATTEMPTS  # each request brought bytes, so each mirror had all its chances
    server.scripts.clear()
    fetch(NAME)
    assert target.read_bytes() == server.text
    assert server.requests[-1] == ("/first", 1000)


def test_a_server_without_ranges_that_breaks_now_and_then(server, target, part):
    part.write_bytes(server.text[:1000])
    breaks = [100, 500, 50, len(server.text)]
    server.scripts["/first"] = lambda answer, start: answer.headed(
        server.text[: breaks.pop(0)], length=len(server.text)
    )
    fetch(NAME)
    assert target.read_bytes() == server.text
    assert [path for path, _ in server.requests] == ["/first"] * 4


def test_a_server_that_breaks_fifty_times(server, target, part):
    """Each brings a fiftieth: it gets there."""
    step = len(server.text) // 50

    def script(answer, start):
        begin = start or 0
        last = len(server.text) - 1
        body = server.text[begin : begin + step]
        answer.headed(
            body, f"Content-Range: bytes {begin}-{last}/{last + 1}", length=last + 1 - begin,
            status="206 Partial Content" if begin else "200 OK",
        )  # fmt: skip

    server.scripts["/first"] = script
    fetch(NAME)
    assert target.read_bytes() == server.text
    assert len(server.requests) >= 50


def test_a_server_that_brings_a_byte_a_connection_is_given_up(server, target):
    def script(answer, start):
        begin, size = start or 0, len(server.text)
        answer.headed(
            server.text[begin : begin + 1], f"Content-Range: bytes {begin}-{size - 1}/{size}", length=size - begin,
            status="206 Partial Content" if begin else "200 OK",
        )  # fmt: skip

    server.scripts["/first"] = script
    fetch(NAME)
    assert target.read_bytes() == server.text
    assert [path for path, _ in server.requests] == ["/first"] * downloads.ATTEMPTS + ["/second"]
    assert server.requests[-1] == ("/second", downloads.ATTEMPTS)


def test_a_drip_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(downloads, "STALL", 0.3)
    length = f"Content-Length: {len(server.text)}\r\n\r\n".encode()
    server.scripts["/first"] = drip(OK + length, pause=0.02)
    started = time.monotonic()
    fetch(NAME)
    assert time.monotonic() - started < 3
    assert target.read_bytes() == server.text
    assert [path for path, _ in server.requests][:2] == ["/first", "/second"]  # not asked again
    server.scripts["/second"] = server.scripts["/first"]
    target.unlink()
    refused(lambda: fetch(NAME), "too slow")


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 O", OK + b"X-", OK + b"X: y\r\n"])
def test_headers_that_drip_are_given_up(server, target, monkeypatch, head):
    monkeypatch.setattr(downloads, "CONNECT", 0.6)
    server.scripts["/first"] = drip(head, pause=0.05)
    started = time.monotonic()
    fetch(NAME)
    assert time.monotonic() - started < 3
    assert target.read_bytes() == server.text


def test_right_ranges_with_wrong_bytes(server, target, part):
    """What is there is right, what comes is not: all of it is fetched again."""
    part.write_bytes(server.text[:1000])

    def script(answer, start):
        size, begin = len(server.text), start or 0
        answer.headed(
            bytes(size - begin), f"Content-Range: bytes {begin}-{size - 1}/{size}",
            status="206 Partial Content" if start else "200 OK",
        )  # fmt: skip

    server.scripts["/first"] = script
    fetch(NAME)
    assert target.read_bytes() == server.text


@pytest.mark.parametrize(
    "proxy", ["http://[", "nonsense", "http://127.0.0.1:1", "http://127.0.0.1:99999", "ftp://x", "://"]
)
def test_a_proxy_that_is_none(server, target, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    refused(lambda: fetch(NAME), "could not be fetched")


def test_redirects_that_are_right(server, target):
    server.scripts["/first"] = redirect("/elsewhere/../second?x=1")
    server.scripts["/elsewhere/../second?x=1"] = redirect(server.url("/second"))
    fetch(NAME)
    assert target.read_bytes() == server.text


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device", "folder", "loop", "socket"])
@pytest.mark.parametrize("suffix", [".part", ".md5"])
def test_beside_the_download_is_no_file(server, target, kind, suffix):
    special(target.with_name(target.name + suffix), kind)
    if suffix == ".part" or kind == "folder":
        refused(lambda: fetch(NAME), str(target), "can't be written")
        assert not target.exists()
    else:
        with within(10):
            fetch(NAME)
        assert verify(NAME) == []


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device", "folder", "loop", "socket"])
def test_a_lock_that_is_no_file(server, target, kind):
    special(target.with_name(".lock"), kind)
    with within(10), suppress(Exception):
        fetch(NAME)
    if not target.exists():
        refused(lambda: fetch(NAME), "can't be written")


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"0123", b"x" * 32, b"\xff" * 40, b"d41d8cd9"])
def test_a_damaged_record_of_a_download(server, target, content):
    """An earlier version left such files where it was killed: `verify` names the way out, `fetch` takes it."""
    fetch(NAME)
    target.with_name("input.txt.md5").write_bytes(content)
    (problem,) = verify(NAME)
    assert f"lowland data fetch {NAME}" in problem
    asked = len(server.requests)
    assert fetch(NAME) == []
    assert verify(NAME) == []
    assert len(server.requests) == asked
    assert load(NAME).train


def test_a_damaged_record_of_another_file(server, target):
    fetch(NAME)
    target.with_name("input.txt.md5").write_bytes(b"")
    target.write_bytes(server.text.replace(b"line 7", b"LINE 7"))
    refused(lambda: fetch(NAME), str(target), "Remove both", "or that one alone")
    target.with_name("input.txt.md5").unlink()
    assert fetch(NAME) == []


def test_a_file_that_has_changed_says_what_to_do(server, target):
    fetch(NAME)
    target.write_bytes(server.text.replace(b"line 7", b"LINE 7"))
    (problem,) = verify(NAME)
    assert "Remove both and run: lowland data fetch" in problem
    for path in (target, target.with_name("input.txt.md5")):
        path.unlink()
    fetch(NAME)
    assert verify(NAME) == []


@pytest.mark.parametrize("step", range(6))
def test_killed_at_the_last_moment(server, target, monkeypatch, step):
    """Wherever that is, the same command ends with the file and its record."""
    calls = []

    def dying(function):
        def call(*arguments):
            calls.append(function)
            if len(calls) > step:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "fsync"):
            patched.setattr(os, name, dying(getattr(os, name)))
        with suppress(KeyboardInterrupt):
            fetch(NAME)
    if target.exists():
        assert target.with_name("input.txt.md5").exists()
    fetch(NAME)
    assert target.read_bytes() == server.text
    assert target.with_name("input.txt.md5").read_text() == f"{digest(server.text)}  input.txt\n"
    assert verify(NAME) == []


def random_answer(rng, text):
    """Bytes that begin as an answer does, more or less."""
    begin = rng.randrange(len(text))
    lines = [
        rng.choice(
            (b"HTTP/1.1 200 OK", b"HTTP/1.0 206 Partial", b"HTTP/1.1 302 Found", b"HTTP/1.1 200", b"ICY 200 OK")
        ),
        b"Content-Length: %d" % rng.choice((len(text), len(text) - begin, begin, 0)),
        rng.choice((b"X: y", b"Transfer-Encoding: chunked", b"Location: /second", b"Location: " + rng.randbytes(5))),
        b"Content-Range: bytes %d-%d/%d" % (begin, len(text) - 1, len(text)),
    ]
    answer = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + text[rng.choice((0, begin)) :])
    for _ in range(rng.randrange(4)):
        place = rng.randrange(min(len(answer), 200))
        answer[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(answer)


@pytest.mark.hostile
@pytest.mark.parametrize("seed", range(4))
def test_answers_at_random(server, target, part, seed, count):
    count("answers of a server at random", 150)
    rng = random.Random(seed)
    for _ in range(150):
        if rng.random() < 0.5:
            part.write_bytes(server.text[: rng.randrange(1, len(server.text))])
        answer = random_answer(rng, server.text)
        server.scripts["/first"] = raw(answer)
        with within(20):
            assert fetch(NAME) == [target], answer
        assert target.read_bytes() == server.text
        target.unlink()
