"""A zoo in a repository on a hub: huggingface_hub's own client against a server that speaks the little it needs."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote

import pytest


@dataclass
class Hub:
    """One repository, ``me/zoo``; every commit is a whole tree."""

    trees: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])
    messages: list[str] = field(default_factory=list)
    before_commit: list[dict[str, bytes]] = field(default_factory=list)
    refuse: int | None = None

    def sha(self) -> str:
        return f"{len(self.trees):040x}"

    def tree(self, revision: str) -> dict[str, bytes]:
        return self.trees[int(revision, 16) - 1] if len(revision) == 40 else self.trees[-1]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if match := re.fullmatch(r"/me/zoo/resolve/([^/]+)/(.+)", path):
            data = self.hub.tree(match[1]).get(match[2])
            if data is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.hub.sha())
            headers = {
                "X_Repo_Commit": self.hub.sha(),
                "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                "Accept_Ranges": "bytes",
            }
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked:
                start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
                return self.answer(
                    206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}", **headers
                )
            return self.answer(200, data, **headers)
        if match := re.fullmatch(r"/api/models/me/zoo/tree/([^/]+)/?(.*)", path):
            tree, prefix = self.hub.tree(match[1]), match[2] + "/" if match[2] else ""
            inside = {name.removeprefix(prefix) for name in tree if name.startswith(prefix)}
            if not inside:
                return self.answer(404, X_Error_Code="EntryNotFound")
            return self.answer_json(
                [
                    {"type": "file", "oid": "0" * 40, "size": len(tree[prefix + name]), "path": prefix + name}
                    if "/" not in name
                    else {"type": "directory", "oid": "0" * 40, "size": 0, "path": prefix + name.split("/")[0]}
                    for name in sorted({name if "/" not in name else name.split("/")[0] + "/" for name in inside})
                ]
            )
        if re.fullmatch(r"/api/models/me/zoo(/revision/.+)?", path):
            return self.answer_json({"_id": "1", "id": "me/zoo", "sha": self.hub.sha(), "siblings": [], "tags": []})
        return self.answer(404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = (
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "Content-Length" in self.headers
            else self.chunks()
        )
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.answer_json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        if "/commit/" not in self.path:
            return self.answer(404)
        if self.hub.refuse:
            return self.answer(self.hub.refuse, b'{"error": "no"}')
        if self.hub.before_commit:  # somebody else is faster
            self.hub.trees.append({**self.hub.trees[-1], **self.hub.before_commit.pop()})
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        (header,) = [line["value"] for line in lines if line["key"] == "header"]
        if header["parentCommit"] != self.hub.sha():
            return self.answer(412, b'{"error": "The parent is not the last commit"}')
        tree = dict(self.hub.trees[-1])
        for line in lines:
            if line["key"] == "file":
                tree[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del tree[line["value"]["path"]]
        self.hub.trees.append(tree)
        self.hub.messages.append(header["summary"])
        return self.answer_json(
            {
                "commitUrl": f"http://{self.headers['Host']}/me/zoo/commit/1",
                "commitOid": self.hub.sha(),
                "success": True,
            }
        )

    def chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *arguments: object) -> None:
        pass


CODE = """
import sys
from xmodal.errors import ZooError
from xmodal.zoo import download, list_entries, publish
run, to, *steps = sys.argv[1:]
for step in steps:
    command, _, name = step.partition(":")
    try:
        if command in ("publish", "overwrite"):
            publish(run, to, name=name, half=False, overwrite=command == "overwrite")
        elif command == "download":
            print("downloaded", download(name, index=to))
        else:
            print("listed", *(entry.name for entry in list_entries(to)))
    except ZooError as error:
        print("ZooError", error)
"""


@pytest.fixture
def hub():
    hub = Hub()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{httpd.server_port}"
    yield hub
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def act(hub, run, tmp_path):
    """Runs steps in a process whose hub is ours; returns what it printed."""

    def act(*steps: str, to: str = "hf://me/zoo", **environment: str) -> str:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_of_nobody",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(run), to, *steps],
            env={**os.environ, **settings, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return act


def test_a_publication_is_one_commit_and_can_be_downloaded(hub, act, run, tmp_path):
    said = act("publish:mine", "publish:mine", "list", "download:mine")
    assert hub.messages == ["Add mine"]
    assert "published  mine → hf://me/zoo/students/mine" in said
    assert "ZooError hf://me/zoo/index.json has an entry 'mine' already" in said
    assert "listed mine" in said
    folder = said.rpartition("downloaded ")[2].strip()
    tree = hub.trees[-1]
    (entry,) = json.loads(tree["index.json"])["entries"]
    assert set(tree) == {".gitattributes", "index.json", *(f"students/mine/{path}" for path in entry["files"])}
    for path, file in entry["files"].items():
        with open(os.path.join(folder, path), "rb") as downloaded:
            data = downloaded.read()
        assert data == tree[f"students/mine/{path}"]
        assert file == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_what_somebody_else_commits_meanwhile_is_kept(hub, act):
    act("publish:theirs")
    hub.before_commit = [hub.trees.pop()]  # their commit comes between our reading and our writing
    hub.messages.clear()
    said = act("publish:mine", "list")
    assert "listed theirs mine" in said
    assert hub.messages == ["Add mine"]


def test_an_overwrite_below_a_folder_of_the_repository_removes_files_that_no_entry_lists(hub, act, run):
    to = "hf://me/zoo/shelf"
    (run / "student/notes.txt").write_text("only now")
    act("publish:mine", to=to)
    assert "shelf/students/mine/notes.txt" in hub.trees[-1]
    (run / "student/notes.txt").unlink()
    said = act("overwrite:mine", "download:mine", to=to)
    assert "downloaded" in said
    assert hub.messages == ["Add mine", "Replace mine"]
    assert "shelf/students/mine/notes.txt" not in hub.trees[-1]
    assert ".gitattributes" in hub.trees[-1]


def test_a_repository_that_is_not_there_and_one_that_may_not_be_written_are_said_so(hub, act):
    hub.refuse = 403
    said = (
        act("publish:mine") + act("publish:mine", to="hf://me/nothing/shelf") + act("publish:mine", HF_HUB_OFFLINE="1")
    )
    assert "ZooError hf://me/zoo may not be written (403). Log in with a token that may: hf auth login" in said
    assert "There is no repository at hf://me/nothing/shelf" in said
    assert "hf repos create me/nothing " in said
    assert said.count("ZooError") == 3
    assert len(hub.trees) == 1
