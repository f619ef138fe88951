"""A stand-in for the Hugging Face Hub on this machine: as much of its HTTP interface as loading and pushing models use.

huggingface_hub reads HF_ENDPOINT when it is imported, so clients run in a process of their own with `hub.environment`.
"""

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

Files = dict[str, bytes]  # path in the repository -> content


class LoopbackHub(ThreadingHTTPServer):
    """A context manager.

    `repos` holds the repositories, of models as "org/name" and of data as "datasets/org/name"; `sent` lists the files
    sent so far as "org/name/path". `revisions` holds what a repository was at a tag, by "org/name@tag". `gated` names
    repositories that nobody may read. `breaks` says after how many bytes the line breaks when a file is sent
    ("org/name/path"), once.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Files] = {}
        self.sent: list[str] = []
        self.revisions: dict[str, Files] = {}
        self.gated: set[str] = set()
        self.breaks: dict[str, int] = {}
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, folder: Path) -> None:
        self.repos[repo] = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a client with its own cache below `home`, without the machine's own Hub and proxy settings."""
        inherited = {name: value for name, value in os.environ.items() if not name.lower().startswith(("hf_", "http"))}
        return inherited | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": "any"} | more

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def commit_of(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        is_api = path[0] == "api"
        repo, path = _repo_of(path)
        action, revision, *name = path or ["revision", "main"]
        files, file = self.server.repos.get(repo), "/".join(name)
        if files is not None and revision not in ("main", commit_of(files)):
            tagged = {commit_of(f): f for key, f in self.server.revisions.items() if key.startswith(f"{repo}@")}
            files = self.server.revisions.get(f"{repo}@{revision}", tagged.get(revision))
            if files is None:
                return self._reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if files is None:
            self._reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif repo in self.server.gated and not is_api:
            self._reply(403, b"", {"X-Error-Code": "GatedRepo"})
        elif is_api and action == "tree":
            self._reply_json([{"type": "file", "path": f, "size": len(c), "oid": _etag(c)} for f, c in files.items()])
        elif is_api:
            self._reply_json({"id": repo, "sha": commit_of(files), "siblings": [{"rfilename": f} for f in files]})
        elif file not in files:
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_of(files)})
        else:
            self._send(f"{repo}/{file}", files[file], commit_of(files))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0].strip("/").split("/")
        if path == ["api", "repos", "create"]:
            request = json.loads(body)
            kind = "datasets/" if request.get("type") == "dataset" else ""
            repo = f"{kind}{request['organization']}/{request['name']}"
            self.server.repos.setdefault(repo, {})
            self._reply_json({"url": f"{self.server.endpoint}/{repo}", "name": repo})
        elif path == ["api", "validate-yaml"]:
            self._reply_json({"errors": [], "warnings": []})
        elif _repo_of(path)[1][0] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            self._reply_json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        else:  # a commit: one JSON object a line, file contents in base64
            repo, _ = _repo_of(path)
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            sha = commit_of(self.server.repos[repo])
            self._reply_json({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}", "commitOid": sha})

    def _send(self, name: str, content: bytes, commit: str) -> None:
        """A file, or what is left of it from where the client says it has it; cut short where the line breaks."""
        if self.command == "GET":
            self.server.sent.append(name)
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        end = None if self.command == "HEAD" else self.server.breaks.pop(name, None)
        self._reply(206 if first else 200, content[first:], headers, end)
        self.close_connection = end is not None

    def _reply_json(self, value: object) -> None:
        self._reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _reply(self, status: int, body: bytes, headers: dict[str, str], end: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:end])

    def log_message(self, *_: object) -> None:
        """Silence: pytest has enough to say."""


def _repo_of(path: list[str]) -> tuple[str, list[str]]:
    """The repository that an address names, and what follows."""
    path = path[1:] if path[0] == "api" else path
    kind, path = ("datasets/", path[1:]) if path[0] == "datasets" else ("", path[1:] if path[0] == "models" else path)
    return kind + "/".join(path[:2]), path[2:]


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
