"""The part of the Hugging Face Hub's protocol that huggingface_hub speaks when it loads and pushes, on 127.0.0.1."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer:
    """
    Repositories in memory: ``repositories[name]`` is a list of commits, each a dict of files.

    ``cut`` makes the next downloads end after this many bytes; files in ``failing`` are answered with an
    error; ``private`` are repositories that take the token "secret".
    """

    def __init__(self):
        self.repositories = {}
        self.private = set()
        self.cut = None
        self.failing = set()
        self.requests = []
        self.closed = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status=200, content=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(headers.pop("size", len(content))))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def handle_one_request(self):
                super().handle_one_request()
                self.close_connection |= hub.closed

            def parse_request(self):
                return not hub.closed and super().parse_request()

            def json(self, content, status=200):
                self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

            def missing(self, what, status=404):
                self.answer(status, b"{}", X_Error_Code=what, X_Error_Message=what)

            def body(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def repository(self, name):
                allowed = name not in hub.private or self.headers.get("Authorization") == "Bearer secret"
                return hub.repositories.get(name) if allowed else None

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                hub.requests.append(f"{self.command} {self.path}")
                path = self.path.partition("?")[0]
                if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    return self.file(*found.groups())
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                    files = hub.repositories[found[1]][hub.commit(*found.groups())]
                    entries = [
                        ("file", path, len(content), hashlib.sha1(content).hexdigest()) for path, content in files.items()
                    ]
                    return self.json([dict(zip(("type", "path", "size", "oid"), entry, strict=True)) for entry in entries])
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                    commits = self.repository(found[1])
                    if not commits:
                        return self.missing("RepoNotFound", 401)
                    return self.json(
                        {
                            "id": found[1],
                            "sha": hub.sha(found[1], len(commits) - 1),
                            "siblings": [{"rfilename": path} for path in commits[-1]],
                        }
                    )
                return self.missing("EntryNotFound")

            def file(self, name, revision, path):
                commits = self.repository(name)
                if not commits:
                    return self.missing("RepoNotFound", 401)
                number = hub.commit(name, revision)
                if number is None:
                    return self.missing("RevisionNotFound")
                if path in hub.failing:
                    return self.answer(500)
                content = commits[number].get(path)
                commit = hub.sha(name, number)
                if content is None:
                    return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                if hub.cut is not None and self.command == "GET":
                    self.send_response(200)
                    self.send_header("ETag", etag)
                    self.send_header("X-Repo-Commit", commit)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: hub.cut])
                    self.wfile.flush()
                    self.close_connection = True
                    return None
                return self.answer(200, content, ETag=etag, X_Repo_Commit=commit)

            def do_POST(self):
                hub.requests.append(f"{self.command} {self.path}")
                body, path = self.body(), self.path.partition("?")[0]
                if path == "/api/repos/create":
                    wanted = json.loads(body)
                    name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
                    if self.headers.get("Authorization") is None:
                        return self.missing("Unauthorized", 401)
                    hub.repositories.setdefault(name, [{".gitattributes": b""}])
                    if wanted.get("private") or wanted.get("visibility") == "private":
                        hub.private.add(name)
                    return self.json({"url": f"{hub.url}/{name}", "name": name, "id": name})
                if path == "/api/validate-yaml":
                    return self.json({"errors": [], "warnings": []})
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
                    files = json.loads(body)["files"]
                    return self.json(
                        {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                    )
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
                    files = dict(hub.repositories[found[1]][-1]) if hub.repositories[found[1]] else {}
                    for line in body.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                        if entry["key"] == "deletedFile":
                            del files[entry["value"]["path"]]
                    hub.repositories[found[1]].append(files)
                    sha = hub.sha(found[1], len(hub.repositories[found[1]]) - 1)
                    return self.json({"commitUrl": f"{hub.url}/{found[1]}/commit/{sha}", "commitOid": sha, "success": True})
                return self.missing("EntryNotFound")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def sha(self, name, number):
        return hashlib.sha1(f"{name} {number}".encode()).hexdigest()

    def commit(self, name, revision):
        """Number of a commit, None if there is no such revision."""
        numbers = range(len(self.repositories[name]))
        if revision == "main":
            return len(numbers) - 1
        return next((number for number in numbers if self.sha(name, number) == revision), None)

    def close(self):
        self.closed = True
        self._server.shutdown()
        self._server.server_close()
