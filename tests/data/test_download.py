"""Downloads from a server on this machine that misbehaves in all the usual ways."""

import errno
import hashlib
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lowland.data import DATASETS, Download, fetch, load, status, verify
from lowland.data import download as downloads
from lowland.data.download import bars
from lowland.errors import DataError
from tests.full_disk import full_disk

NAME = "tinyshakespeare"


@dataclass
class Server:
    """Serves ``files`` by path; the other fields are what goes wrong."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes after which the next answers end
    missing: set[str] = field(default_factory=set)
    lie: dict[str, str | None] = field(default_factory=dict)  # headers to replace, or to leave out
    endless: bool = False
    pause: float = 0.0  # seconds, in the middle of an answer
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        if handler.path in self.missing or handler.path not in self.files:
            handler.send_error(404)
            return
        data = self.files[handler.path]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        headers = {"Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.send_response(206 if start else 200)
        for key, value in (headers | self.lie).items():
            if value is not None:
                handler.send_header(key, value)
        handler.end_headers()
        body = data[start:]
        while self.endless:
            handler.wfile.write(body)
        if self.breaks:
            body = body[: self.breaks.pop(0)]
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        time.sleep(self.pause)
        handler.wfile.write(body[len(body) // 2 :])


@pytest.fixture
def server(small, monkeypatch):
    """Serve the small datasets in their publishers' form; the registry's mirrors are all this server."""
    served = Server({})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(BrokenPipeError, ConnectionResetError):  # a client that some test made hang up
                served.answer(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    served.url = f"http://127.0.0.1:{http.server_port}"
    for name in small.contents:
        offers = []
        for file, data in small.packed(name).items():
            urls = tuple(f"/{mirror}/{name}/{file}" for mirror in ("first", "second"))
            served.files |= dict.fromkeys(urls, data)
            offers.append(Download(file, tuple(served.url + u for u in urls), len(data), hashlib.md5(data).hexdigest()))
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], downloads=tuple(offers)))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield served
    http.shutdown()
    http.server_close()


@pytest.fixture
def target(small):
    return small.root / NAME / "input.txt"


@pytest.fixture
def part(target):
    target.parent.mkdir(parents=True)
    return target.with_name("input.txt.part")


@pytest.fixture
def text(small):
    return small.contents[NAME]["input.txt"]


FIRST, SECOND = f"/first/{NAME}/input.txt", f"/second/{NAME}/input.txt"


def refused(*words):
    """`fetch` fails with one line that has all of ``words``, and leaves nothing under the final name."""
    with pytest.raises(DataError) as error:
        fetch(NAME)
    message = str(error.value)
    assert "\n" not in message
    assert "input.txt" in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10", "cifar-100", NAME])
def test_load_fetches_what_is_missing(server, small, name):
    dataset = load(name)
    assert len(dataset.train)
    folder = small.root / name
    for file, data in small.packed(name).items():
        assert (folder / file).read_bytes() == data
        assert (folder / f"{file}.md5").read_text() == f"{hashlib.md5(data).hexdigest()}  {file}\n"
    assert not list(folder.glob("*.part"))
    assert verify(name) == []
    asked = len(server.requests)
    assert asked == len(small.packed(name))
    assert fetch(name) == []
    assert len(server.requests) == asked


def test_only_what_is_missing_is_fetched(server, small):
    folder = small.write("mnist", packed=True)
    missing = folder / "t10k-labels-idx1-ubyte.gz"
    missing.unlink()
    assert fetch("mnist") == [missing]
    assert [path for path, _ in server.requests] == ["/first/mnist/t10k-labels-idx1-ubyte.gz"]


def test_a_complete_dataset_is_left_alone(server, small):
    folder = small.write("mnist")
    before = sorted(folder.iterdir())
    assert fetch("mnist") == []
    assert sorted(folder.iterdir()) == before


def test_digits_need_no_download():
    assert fetch("digits") == []


def test_goes_on_after_a_broken_connection(server, target, text):
    server.breaks = [100, 50]
    assert fetch(NAME) == [target]
    assert target.read_bytes() == text
    assert server.requests == [(FIRST, None), (FIRST, "bytes=100-"), (FIRST, "bytes=150-")]


def test_goes_on_with_what_an_earlier_run_left(server, target, part, text):
    part.write_bytes(text[:120])
    fetch(NAME)
    assert target.read_bytes() == text
    assert server.requests == [(FIRST, "bytes=120-")]


def test_a_complete_part_needs_no_network(server, target, part, text):
    part.write_bytes(text)
    fetch(NAME)
    assert target.read_bytes() == text
    assert server.requests == []


def test_the_next_mirror_goes_on_where_the_first_broke(server, target, text):
    server.breaks = [100, 0]
    fetch(NAME)
    assert target.read_bytes() == text
    assert server.requests == [(FIRST, None), (FIRST, "bytes=100-"), (SECOND, "bytes=100-")]


def test_server_without_ranges(server, target, part, text):
    server.ranges = False
    part.write_bytes(b"?" * 10)
    fetch(NAME)
    assert target.read_bytes() == text
    assert server.requests == [(FIRST, "bytes=10-")]


@pytest.mark.parametrize("breaks", [[100] * 50, [100, 0] * 25])
def test_always_breaking_server_ends(server, target, breaks):
    server.ranges = False
    server.breaks = breaks
    refused("the connection broke after")
    assert not target.exists()
    assert len(server.requests) <= 2 * (downloads.ATTEMPTS + 1)


@pytest.mark.parametrize("left", [b"?" * 50, b"?" * 10**5])
def test_a_part_that_is_no_good_starts_again(server, target, part, text, left):
    part.write_bytes(left)
    fetch(NAME)
    assert target.read_bytes() == text
    assert server.requests[-1] == (FIRST, None)


def test_wrong_content(server, target, text):
    server.files |= dict.fromkeys((FIRST, SECOND), bytes(len(text)))
    refused("MD5", "was deleted", "127.0.0.1")
    assert {path.name for path in target.parent.iterdir()} <= {".lock"}
    assert [path for path, _ in server.requests] == [FIRST, SECOND]


def test_wrong_content_at_the_first_mirror_only(server, target, text):
    server.files[FIRST] = bytes(len(text))
    fetch(NAME)
    assert target.read_bytes() == text


@pytest.mark.parametrize("change", [bytes(7), b""])
def test_another_file_by_its_length(server, target, part, text, change):
    server.files[FIRST] = text[:-5] + change
    part.write_bytes(text[:100])
    fetch(NAME)
    assert target.read_bytes() == text
    assert server.requests == [(FIRST, "bytes=100-"), (SECOND, "bytes=100-")]


def test_length_is_checked_before_the_download(server, target):
    server.lie = {"Content-Length": "12345678"}
    refused("has another file: 12345678 where")
    assert not target.exists()


def test_endless_answer_ends(server, target):
    server.endless = True
    server.lie = {"Content-Length": None}
    refused("MD5")
    assert not target.exists()


def test_unknown_length(server, target, text):
    server.lie = {"Content-Length": None}
    fetch(NAME)
    assert target.read_bytes() == text


def test_another_range_than_asked_for(server, target, part, text):
    part.write_bytes(text[:100])
    server.lie = {"Content-Range": f"bytes 0-{len(text) - 1}/{len(text)}"}
    refused("has another file: bytes 0-")
    assert part.read_bytes() == text[:100]


def test_missing_at_the_first_mirror(server, target, text):
    server.missing = {FIRST}
    fetch(NAME)
    assert target.read_bytes() == text


def test_missing_at_every_mirror(server, target):
    server.missing = {FIRST, SECOND}
    message = refused("HTTP 404", f"lowland data fetch {NAME}", "$LOWLAND_DATA", "long2024/digits needs no")
    assert message.count("HTTP 404") == 2
    assert str(target) in message
    with pytest.raises(DataError, match="HTTP 404"):
        load(NAME)


def mirrors(monkeypatch, *urls):
    source = DATASETS[NAME]
    download = replace(source.downloads[0], urls=urls)
    monkeypatch.setitem(DATASETS, NAME, replace(source, downloads=(download,)))


def test_connection_refused(server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    mirrors(monkeypatch, f"http://127.0.0.1:{port}/input.txt")
    start = time.monotonic()
    refused("Connection refused")
    assert time.monotonic() - start < 5


def test_no_answer(server, monkeypatch, target, text):
    monkeypatch.setattr(downloads, "CONNECT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/input.txt"
        mirrors(monkeypatch, *[dead] * 5)
        start = time.monotonic()
        refused("no answer in time")
        assert time.monotonic() - start < 3
        mirrors(monkeypatch, dead, server.url + FIRST)
        fetch(NAME)
    assert target.read_bytes() == text


def test_name_lookup_that_hangs(server, monkeypatch):
    monkeypatch.setattr(downloads, "CONNECT", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3) or [])
    start, before = time.monotonic(), set(threading.enumerate())
    refused("no answer in time")
    assert time.monotonic() - start < 2
    waiting = set(threading.enumerate()) - before
    assert all(thread.daemon for thread in waiting)  # so that the interpreter can end before the lookup does


def test_giving_up_takes_less_than_half_a_minute():
    assert downloads.CONNECT < 30


def test_stalled_download(server, monkeypatch, target):
    monkeypatch.setattr(downloads, "STALL", 0.2)
    server.pause = 2.0
    server.breaks = [100, 0, 0]
    refused("the connection broke: timed out")
    assert not target.exists()


def test_full_disk(server, target, part):
    with full_disk(100):
        refused(os.strerror(errno.EFBIG), str(part), "$LOWLAND_DATA")
    assert not target.exists()
    assert part.stat().st_size == 100


def test_full_disk_at_the_last_moment(server, monkeypatch, target, text):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        refused(os.strerror(errno.ENOSPC))
        assert not target.exists()
    fetch(NAME)
    assert target.read_bytes() == text


def test_folder_is_a_file(server, small):
    small.root.mkdir()
    (small.root / NAME).write_text("in the way")
    with pytest.raises(DataError, match=f"{small.root / NAME} can't be written"):
        load(NAME)


def test_two_at_once(server, target, text):
    server.pause = 0.3
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch(NAME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [[], [], [target]]
    assert target.read_bytes() == text
    assert len(server.requests) == 1


def test_checksums_are_held_against_downloads_only(server, small, target, text):
    fetch(NAME)
    target.write_bytes(text.replace(b"line 7", b"LINE 7"))
    (problem,) = verify(NAME)
    assert str(target) in problem
    target.with_name("input.txt.md5").write_bytes(b"")
    assert len(verify(NAME)) == 1
    target.with_name("input.txt.md5").unlink()
    assert verify(NAME) == []
    assert {entry.name: entry.state for entry in status()}[NAME] == "ready"


def test_no_bar_without_a_terminal(server, capfd):
    fetch(NAME)
    assert capfd.readouterr() == ("", "")


def test_bar(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    download = DATASETS["mnist"].downloads[0]
    with bars(False) as advance:
        advance(download, 1)
    assert capfd.readouterr().err == ""
    with bars(True) as advance:
        advance(download, 5_000_000)
        advance(download, download.size)
    out, err = capfd.readouterr()
    assert out == ""
    assert download.filename in err
