"""Each failure of a server ends in bounded time, with bounded memory and in one sentence."""

import http.server
import importlib.util
import io
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.urls import transfer as module
from data_prep.dataset.urls.download import download

CONTENT = b"0123456789" * 300_000


class Server(http.server.ThreadingHTTPServer):
    """answer: called with the handler of each GET request. requests: the number of GET requests so far."""

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


def test_a_file_is_copied_with_and_without_a_content_length(server: Server) -> None:
    for length in (len(CONTENT), None):
        server.answer = lambda handler, length=length: handler.give(200, CONTENT, length)
        assert fetch(server.url) == CONTENT
    assert server.requests == 2, "one request a file"


def test_a_server_error_is_logged_and_tried_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.answer = lambda handler: handler.give(500, b"", 0)
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match=r"cannot be fetched in 3 attempts .*500"):
        fetch(server.url)
    assert server.requests == 3
    assert [record.getMessage().split(";")[-1] for record in caplog.records] == [
        " attempt 2 of 3 in 0.01 s",
        " attempt 3 of 3 in 0.02 s",
    ]


def test_after_an_interrupted_answer_the_whole_file_is_fetched_again(server: Server) -> None:
    def answer(handler: Handler) -> None:
        handler.give(200, CONTENT if server.requests == 3 else CONTENT[:2_000_000], len(CONTENT))

    server.answer = answer
    assert fetch(server.url) == CONTENT and server.requests == 3


@pytest.mark.parametrize(("status", "message"), [(404, "no such file"), (403, "403"), (401, "401")])
def test_a_permanent_error_is_not_tried_again(server: Server, status: int, message: str) -> None:
    server.answer = lambda handler: handler.give(status, b"", 0)
    with pytest.raises(DataError, match=f"cannot be fetched .*{message}.*; check the URL"):
        fetch(server.url)
    assert server.requests == 1


@pytest.mark.parametrize("sent", [b"", CONTENT[:1_500_000]])
def test_a_download_stops_when_the_server_sends_nothing(
    server: Server, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.3)
    monkeypatch.setattr(module, "READ_SECONDS", 0.3)

    def answer(handler: Handler) -> None:
        if sent:
            handler.give(200, sent, len(CONTENT))
        server.released.wait()

    server.answer = answer
    with pytest.raises(DataError, match=r"cannot be fetched in 3 attempts .*(no answer for|Timeout)"):
        fetch(server.url)


@pytest.mark.parametrize("length", [None, 1 << 40])
def test_an_endless_body_is_cut_off(server: Server, length: int | None) -> None:
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


def test_a_server_that_does_not_run_is_reported_in_one_sentence(server: Server) -> None:
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


def test_a_local_file_is_copied_up_to_the_limit_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a?b#c").write_bytes(CONTENT)
    assert fetch(tmp_path / "a?b#c") == CONTENT
    with pytest.raises(DataError, match="holds more than the 10 bytes"):
        fetch(tmp_path / "a?b#c", 10)
    with pytest.raises(DataError, match="there is no such file"):
        fetch(tmp_path / "nothing")


@pytest.mark.parametrize(("scheme", "library"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_library_is_named_by_its_extra(scheme: str, library: str) -> None:
    if importlib.util.find_spec(library):
        return  # the library is installed here
    with pytest.raises(DataError, match=rf"{scheme}:// needs a library: pip install 'elmo-pipeline\[{scheme}\]'"):
        fetch(f"{scheme}://bucket/file")
