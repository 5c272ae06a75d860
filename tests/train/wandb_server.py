"""A stand-in for wandb's server on localhost, with what logging, resuming, alerts and `wandb sync` need.

It keeps what clients send as the real server would show it: a run's history is the lines of its file stream, in order.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40


class Run:
    """One run on the server."""

    def __init__(self, entity: str, project: str, name: str) -> None:
        self.entity, self.project, self.name = entity, project, name
        self.fields: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.lines = {"wandb-history.jsonl": 0, "wandb-events.jsonl": 0, "output.log": 0}
        self.summary: dict[str, Any] = {}
        self.exit_codes: list[int] = []

    def bucket(self) -> dict[str, Any]:
        return {
            "id": f"id-{self.name}", "name": self.name, "displayName": self.fields.get("displayName") or self.name,
            "description": "", "config": json.dumps(self.config), "sweepName": None, "historyLineCount": 0,
            "project": {"id": "p", "name": self.project, "entity": {"id": "e", "name": self.entity}},
        }  # fmt: skip

    def resume_status(self) -> dict[str, Any]:
        tail = json.dumps([json.dumps(self.history[-1])] if self.history else [])
        return self.bucket() | {
            "summaryMetrics": json.dumps(self.summary), "historyLineCount": self.lines["wandb-history.jsonl"],
            "eventsLineCount": self.lines["wandb-events.jsonl"], "logLineCount": self.lines["output.log"],
            "historyTail": tail, "eventsTail": "[]", "tags": [], "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection without an answer."""


class WandbServer:
    """A server on a free port of localhost, which runs inside `with`."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.alerts: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self._server = _Quiet(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "120"}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the GraphQL endpoint's answer to an operation, or an empty object if no client needs an answer."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = found[1] if found else ""
        if operation == "Viewer":
            return {"viewer": {"id": "v", "entity": "tester", "username": "tester", "flags": "{}",
                               "teams": {"edges": []}}}  # fmt: skip
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            project = variables.get("project") or "elmo"
            return {"model": {"id": "p", "name": project, "entity": {"id": "e", "name": "tester"},
                              "bucket": run.resume_status() if run else None}}  # fmt: skip
        if operation == "UpsertBucket":
            return {"upsertBucket": self._upsert(variables)}
        if operation == "NotifyScriptableRunAlert":
            self.alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if operation == "UpsertView2":
            self.views.append(variables)
            return {"upsertView": {"view": {"id": "view", "name": "nw-abc-v"}, "inserted": True}}
        if operation == "CreateArtifact":
            self.artifacts.append(variables)
            known = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": {"id": "a"}}}
            return {"createArtifact": {"artifact": known}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables.get("files", [])]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or str(variables.get("id", "")).removeprefix("id-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(variables.get("entity") or "tester", variables.get("project") or "", name))
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        run.config |= json.loads(variables.get("config") or "{}")
        return {"bucket": run.bucket(), "inserted": inserted}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, chunk in body.get("files", {}).items():
            if file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            elif file in run.lines:
                assert chunk["offset"] == run.lines[file], (
                    f"{file} continues at {chunk['offset']}, not {run.lines[file]}"
                )
                run.lines[file] += len(chunk["content"])
                if file == "wandb-history.jsonl":
                    run.history += [json.loads(line) for line in chunk["content"]]
        if body.get("complete"):
            run.exit_codes.append(body.get("exitcode", 0))


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with server.lock:
                if self.path.endswith("/graphql"):
                    asked = json.loads(body)
                    self._reply({"data": server.answer(asked["query"], asked.get("variables") or {})})
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], json.loads(body))
                    self._reply({})
                else:
                    self._reply({})

        def do_PUT(self) -> None:
            self.do_POST()

        def do_GET(self) -> None:
            self._reply({})

        def _reply(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
