"""The part of the Hugging Face Hub's HTTP interface that huggingface_hub needs to write and read a model, in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_fake_hub"


@dataclass
class Repository:
    """A model's repository.

    branches: name -> path -> content
    """

    visibility: str
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)

    def sha(self, branch: str) -> str:
        """Return the name of the newest commit of a branch."""
        return hashlib.sha1(repr((branch, sorted(self.branches[branch].items()))).encode()).hexdigest()

    def find(self, revision: str) -> dict[str, bytes] | None:
        """Return the files of a branch or commit."""
        named = {branch: branch for branch in self.branches} | {self.sha(branch): branch for branch in self.branches}
        return self.branches[named[revision]] if revision in named else None


class FakeHub(ThreadingHTTPServer):
    """A server with repositories and the content of large files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        """The value of HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _path(self) -> list[str]:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def do_PUT(self) -> None:
        *_, digest = self._path()
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.large[digest] = content
        self._answer(200)

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid token"})
            return
        match path:
            case ["api", "validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                name = f"{wanted['organization']}/{wanted['name']}"
                exists = name in self.server.repositories
                self.server.repositories.setdefault(name, Repository(wanted.get("visibility", "public")))
                self._answer(409 if exists else 200, {"url": f"{self.server.address}/{name}"})
            case ["api", "models", owner, name, "preupload", _]:
                files = json.loads(body)["files"]
                self._answer(200, {"files": [self._mode(one["path"]) for one in files]})
            case ["api", "models", owner, name, "branch", branch]:
                repository = self.server.repositories[f"{owner}/{name}"]
                exists = branch in repository.branches
                repository.branches.setdefault(branch, dict(repository.branches["main"]))
                self._answer(409 if exists else 200, {})
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._answer(
                    200, {"transfer": "basic", "objects": [self._upload(o) for o in json.loads(body)["objects"]]}
                )
            case ["api", "models", owner, name, "commit", branch]:
                self._commit(self.server.repositories[f"{owner}/{name}"], f"{owner}/{name}", branch, body)
            case _:
                self._answer(404, {"error": self.path})

    @staticmethod
    def _mode(path: str) -> dict[str, object]:
        is_large = path.endswith(".safetensors")
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _upload(self, wanted: dict[str, object]) -> dict[str, object]:
        address = f"{self.server.address}/large/{wanted['oid']}"
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": {"href": address, "header": {}}}}

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        files = repository.branches[branch]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        sha = repository.sha(branch)
        self._answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def do_GET(self) -> None:
        match self._path():
            case ["api", "models", owner, name, "tree", revision, *_] if files := self._files(owner, name, revision):
                rows = [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                ]
                self._answer(200, rows)
            case ["api", "models", owner, name, "revision", revision] if files := self._files(owner, name, revision):
                repository = self.server.repositories[f"{owner}/{name}"]
                sha = next(repository.sha(branch) for branch, one in repository.branches.items() if one is files)
                content = {"id": f"{owner}/{name}", "sha": sha, "siblings": [{"rfilename": path} for path in files]}
                self._answer(200, content)
            case [owner, name, "resolve", revision, *parts] if files := self._files(owner, name, revision):
                content = files.get("/".join(parts))
                if content is None:
                    self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
                    return
                repository = self.server.repositories[f"{owner}/{name}"]
                sha = next(repository.sha(branch) for branch, one in repository.branches.items() if one is files)
                self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=sha)
            case _:
                self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def _files(self, owner: str, name: str, revision: str) -> dict[str, bytes] | None:
        repository = self.server.repositories.get(f"{owner}/{name}")
        return None if repository is None else repository.find(revision)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run the server in a thread."""
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
