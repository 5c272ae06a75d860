"""A stand-in for the Hugging Face hub on this machine, behind HF_ENDPOINT, to push and fetch models."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

_COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """A server of repositories: ORG/NAME -> path -> content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a process that uses this server as the hub, with a cache of its own."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HOME": str(home), "HF_TOKEN": "hf_none",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body, parts = self._body(), self.path.split("/")
        repositories = self.server.repositories
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            repositories.setdefault(name, {})
            self._answer({"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            name = "/".join(parts[3:5])
            for record in map(json.loads, body.splitlines()):
                if record["key"] == "file":
                    repositories[name][record["value"]["path"]] = base64.b64decode(record["value"]["content"])
            url = f"http://127.0.0.1:{self.server.server_port}/{name}/commit/{_COMMIT}"
            self._answer({"commitUrl": url, "commitOid": _COMMIT, "hookOutput": "", "success": True})
        else:
            self._answer({"error": self.path}, 404)

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].split("/")
        if parts[1:3] == ["api", "models"]:
            self._describe("/".join(parts[3:5]), tree="tree" in parts)
            return
        content = self.server.repositories.get("/".join(parts[1:3]), {}).get("/".join(parts[5:]))
        if content is None:
            self._answer({"error": self.path}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(content, headers={"ETag": f'"{_oid(content)}"', "X-Repo-Commit": _COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _describe(self, name: str, tree: bool) -> None:
        files = self.server.repositories.get(name)
        if files is None:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif tree:
            self._answer([{"type": "file", "path": f, "size": len(c), "oid": _oid(c)} for f, c in files.items()])
        else:
            self._answer({"id": name, "sha": _COMMIT, "siblings": [{"rfilename": f} for f in files], "private": False})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while length := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
