"""The part of the Hugging Face Hub's HTTP interface that huggingface_hub needs for models and data sets, in memory.

A model's repository has the key `organisation/name`, that of a data set `datasets/organisation/name`.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.readme_commands import ROOT

TOKEN = "hf_of_the_fake_hub"


@dataclass
class Repository:
    """A repository.

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
        self.sent_parts: list[int] = []
        """Sizes of the parts of files that were sent, bytes."""

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
                kind = "datasets/" if wanted.get("type") == "dataset" else ""
                name = f"{kind}{wanted['organization']}/{wanted['name']}"
                exists = name in self.server.repositories
                self.server.repositories.setdefault(name, Repository(wanted.get("visibility", "public")))
                self._answer(409 if exists else 200, {"url": f"{self.server.address}/{name}"})
            case ["api", "models" | "datasets", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                self._answer(200, {"files": [self._mode(one["path"]) for one in files]})
            case ["api", kind, owner, name, "branch", branch]:
                repository = self.server.repositories[_key(kind, owner, name)]
                exists = branch in repository.branches
                repository.branches.setdefault(branch, dict(repository.branches["main"]))
                self._answer(409 if exists else 200, {})
            case [*_, "info", "lfs", "objects", "batch"]:
                self._answer(
                    200, {"transfer": "basic", "objects": [self._upload(o) for o in json.loads(body)["objects"]]}
                )
            case ["api", kind, owner, name, "commit", branch]:
                key = _key(kind, owner, name)
                self._commit(self.server.repositories[key], key, branch, body)
            case _:
                self._answer(404, {"error": self.path})

    @staticmethod
    def _mode(path: str) -> dict[str, object]:
        is_large = path.endswith((".safetensors", ".parquet"))
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
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        sha = repository.sha(branch)
        self._answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def do_GET(self) -> None:
        match self._path():
            case ["api", kind, owner, name, "tree", revision, *_] if (
                files := self._files(_key(kind, owner, name), revision)
            ) is not None:
                self._answer(200, _listing(files))
            case ["api", kind, owner, name, *rest] if rest[:1] in ([], ["revision"]) and (
                files := self._files(_key(kind, owner, name), rest[1] if rest else "main")
            ):
                siblings = [{"rfilename": path} for path in files]
                content = {"id": f"{owner}/{name}", "sha": self._sha(kind, owner, name, files), "siblings": siblings}
                self._answer(200, content)
            case ["datasets", owner, name, "resolve", revision, *parts] if files := self._files(
                _key("datasets", owner, name), revision
            ):
                self._file(files.get("/".join(parts)), self._sha("datasets", owner, name, files))
            case [owner, name, "resolve", revision, *parts] if files := self._files(f"{owner}/{name}", revision):
                self._file(files.get("/".join(parts)), self._sha("models", owner, name, files))
            case _:
                self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def _files(self, key: str, revision: str) -> dict[str, bytes] | None:
        repository = self.server.repositories.get(key)
        return None if repository is None else repository.find(revision)

    def _sha(self, kind: str, owner: str, name: str, files: dict[str, bytes]) -> str:
        repository = self.server.repositories[_key(kind, owner, name)]
        return next(repository.sha(branch) for branch, one in repository.branches.items() if one is files)

    def _file(self, content: bytes | None, sha: str) -> None:
        """Answer with a file, or with the bytes of it that are asked for."""
        if content is None:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, content, ETag=etag, X_Repo_Commit=sha)
            return
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = content[int(start) : int(end or len(content)) + 1]
        self.server.sent_parts.append(len(part))
        self._answer(206, part, ETag=etag, X_Repo_Commit=sha, Content_Range=f"bytes {wanted[6:]}/{len(content)}")


def _key(kind: str, owner: str, name: str) -> str:
    return f"datasets/{owner}/{name}" if kind == "datasets" else f"{owner}/{name}"


def _listing(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in files.items()
    ]


def run_with_hub(hub: FakeHub, folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a fresh process: huggingface_hub reads its environment when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf_home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment | changes, capture_output=True, text=True, check=False
    )


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
