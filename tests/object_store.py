"""A real S3 server (moto's) in a process of its own, and a proxy before it that does what networks and stores do wrong.

Run as a program, it serves until its standard input ends, and prints its port first.
"""

import http.client
import http.server
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

Fault = Literal["503", "403", "hang", "truncated", "wrong"]
SECRET = "a-secret-that-no-message-shows"
_OF_A_CONNECTION = ("x-amz-checksum", "content-length", "connection", "transfer", "date", "server")
_XML = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'


class Store(http.server.ThreadingHTTPServer):
    """The proxy. fault(method, key): what goes wrong with a request; requests: methods and keys that came."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.fault: Callable[[str, str], Fault | None] = lambda method, key: None
        self.requests: list[tuple[str, str]] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What finds the store and gives access to it, in the library's own names."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uploaded(self) -> list[str]:
        """The keys of uploads so far, in order."""
        return [key for method, key in self.requests if method == "PUT"]

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        """Ask the server itself. Return the response, whose content is `.content`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.behind)
        headers = headers or {"Authorization": "AWS4-HMAC-SHA256 Credential=testing/20300101/us-east-1/s3/aws4_request"}
        connection.request(method, path, body, headers)
        response: Any = connection.getresponse()
        response.content = response.read()
        connection.close()
        return response

    def get(self, key: str) -> bytes | None:
        """The object's content, None if there is none."""
        response = self.ask("GET", f"/{key}")
        return response.content if response.status == 200 else None

    def put(self, key: str, content: bytes) -> None:
        assert self.ask("PUT", f"/{key}", content).status == 200

    def names(self, folder: str) -> set[str]:
        """The names of the objects in BUCKET/FOLDER."""
        bucket, _, prefix = folder.partition("/")
        listing = self.ask("GET", f"/{bucket}?list-type=2&prefix={prefix}/").content.decode()
        return {part.partition("</Key>")[0].rpartition("/")[2] for part in listing.split("<Key>")[1:]}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.path.partition("?")[0].lstrip("/")
        self.server.requests.append((self.command, key))
        fault = self.server.fault(self.command, key)
        if fault == "hang":
            self.server.released.wait()
            self.close_connection = True
            return
        if fault in ("503", "403"):
            code, message = {"503": ("ServiceUnavailable", "busy"), "403": ("AccessDenied", "Access Denied")}[fault]
            self.give(int(fault), _XML.format(code, message).encode(), {"Content-Type": "application/xml"})
            return
        if fault == "wrong" and self.command == "PUT":
            body = bytes([body[0] ^ 1]) + body[1:]
        unchecked = ("x-amz-checksum", "x-amz-sdk-checksum") if fault == "wrong" else ("expect",)
        headers = {name: text for name, text in self.headers.items() if not name.lower().startswith(unchecked)}
        response = self.server.ask(self.command, self.path, body, headers)
        content = response.content
        if fault == "wrong" and self.command == "GET":
            content = bytes([content[0] ^ 1]) + content[1:]
        kept = {name: text for name, text in response.getheaders() if not name.lower().startswith(_OF_A_CONNECTION)}
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.give(response.status, content, kept | {"Content-Length": length or "0"}, cut=fault == "truncated")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

    def give(self, status: int, content: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut


@contextmanager
def serving() -> Iterator[int]:
    """Yield the port of an S3 server with the bucket `bucket`."""
    command = [sys.executable, "-m", "tests.object_store"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


@contextmanager
def proxied(port: int) -> Iterator[Store]:
    """Yield a proxy before the server, whose bucket is empty."""
    with before(port) as store:
        store.ask("POST", "/moto-api/reset")
        store.ask("PUT", "/bucket")
        yield store


@contextmanager
def before(port: int) -> Iterator[Store]:
    """Yield a proxy before a server of any protocol."""
    store = Store(port)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    yield store
    store.released.set()
    store.shutdown()
    store.server_close()


def serve() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
