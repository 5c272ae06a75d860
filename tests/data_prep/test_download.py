"""What a server may do wrong: each ends in bounded time, with bounded memory, and in one sentence."""

import http.server
import importlib.util
import io
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset import download as module
from data_prep.dataset.download import download
from data_prep.dataset.files import DataError

CONTENT = b"0123456789" * 300_000


class Server(http.server.ThreadingHTTPServer):
    """answer: called with the handler of each GET; requests: how many there were."""

    daemon_threads = True
    answer: Callable[["Handler"], None]
    requests = 0
    released: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests += 1
        self.server.answer(self)

    def give(self, status: int, content: bytes, length: int | None = None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_SECONDS_BEFORE_RETRY", 0.01)
    server = Server(("127.0.0.1", 0), Handler)
    server.released = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def fetch(source: str | Path, max_bytes: int = len(CONTENT)) -> bytes:
    file = io.BytesIO(b"what an earlier attempt left" * 200_000)
    num_bytes, _ = download(source, file, max_bytes)
    assert num_bytes == len(file.getvalue())
    return file.getvalue()


def test_a_file_is_copied_with_and_without_its_length(server: Server) -> None:
    for length in (len(CONTENT), None):
        server.answer = lambda handler, length=length: handler.give(200, CONTENT, length)
        assert fetch(server.url) == CONTENT
    assert server.requests == 2, "one request a file"


def test_an_error_of_the_server_is_tried_again_and_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.answer = lambda handler: handler.give(500, b"", 0)
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match=r"cannot be fetched in 3 attempts .*500"):
        fetch(server.url)
    assert server.requests == 3
    assert [record.getMessage().split(";")[-1] for record in caplog.records] == [
        " attempt 2 of 3 in 0.01 s",
        " attempt 3 of 3 in 0.02 s",
    ]


def test_after_an_error_in_the_midst_the_whole_is_fetched_anew(server: Server) -> None:
    def answer(handler: Handler) -> None:
        handler.give(200, CONTENT if server.requests == 3 else CONTENT[:2_000_000], len(CONTENT))

    server.answer = answer
    assert fetch(server.url) == CONTENT and server.requests == 3


@pytest.mark.parametrize(("status", "said"), [(404, "no such file"), (403, "403"), (401, "401")])
def test_what_will_not_change_is_not_tried_again(server: Server, status: int, said: str) -> None:
    server.answer = lambda handler: handler.give(status, b"", 0)
    with pytest.raises(DataError, match=f"cannot be fetched .*{said}.*; check the URL"):
        fetch(server.url)
    assert server.requests == 1


@pytest.mark.parametrize("sent", [b"", CONTENT[:1_500_000]])
def test_a_server_that_falls_silent_is_given_up(server: Server, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN_SECONDS", 0.3)
    monkeypatch.setattr(module, "_READ_SECONDS", 0.3)

    def answer(handler: Handler) -> None:
        if sent:
            handler.give(200, sent, len(CONTENT))
        server.released.wait()

    server.answer = answer
    with pytest.raises(DataError, match=r"cannot be fetched in 3 attempts .*(no answer for|Timeout)"):
        fetch(server.url)


@pytest.mark.parametrize("length", [None, 1 << 40])
def test_a_body_without_end_is_cut_off(server: Server, length: int | None) -> None:
    def answer(handler: Handler) -> None:
        handler.give(200, b"", length)
        try:
            while not server.released.is_set():
                handler.wfile.write(CONTENT)
        except OSError:
            pass

    server.answer = answer
    with pytest.raises(DataError, match="holds more than the 3,000,000 bytes that it should"):
        fetch(server.url)
    assert server.requests == 1


def test_nobody_there_is_one_sentence(server: Server) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(DataError, match=r"cannot be fetched in 3 attempts .*Connect"):
        fetch(url)


def test_a_redirect_does_not_reach_local_files(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")

    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", (tmp_path / "secret").as_uri())
        handler.end_headers()

    server.answer = answer
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch(server.url)


def test_a_local_file_is_copied_and_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "a?b#c").write_bytes(CONTENT)
    assert fetch(tmp_path / "a?b#c") == CONTENT
    with pytest.raises(DataError, match="holds more than the 10 bytes"):
        fetch(tmp_path / "a?b#c", 10)
    with pytest.raises(DataError, match="there is no such file"):
        fetch(tmp_path / "nothing")


@pytest.mark.parametrize(("scheme", "library"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_library_is_named_by_its_extra(scheme: str, library: str) -> None:
    if importlib.util.find_spec(library):
        return  # which is installed here
    with pytest.raises(DataError, match=rf"{scheme}:// needs a library: pip install 'elmo-pipeline\[{scheme}\]'"):
        fetch(f"{scheme}://bucket/file")
