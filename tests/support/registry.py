"""A registry of images in memory, which an engine pulls from; plain HTTP, which engines allow on the loopback alone.

    python -m tests.support.registry PORT REPOSITORY…      # each has the tag 1; prints "ready", ends when it is killed

It answers what a pull asks for (distribution/distribution: docs/spec/api.md), with manifests of version 2, schema 2.
Each image has one file, with its repository's name in it. Only the standard library is used: it runs in an engine's
name spaces.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tests.support.dockerd import PrivateEngine
from tests.torture.client import tar_of

PORT: Final = 5000
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def start(engine: PrivateEngine, *repositories: str) -> subprocess.Popen[str]:
    """Start one in a private engine's network, at 127.0.0.1, and wait until it serves; who starts it ends it."""
    line = engine.enter(sys.executable, "-m", "tests.support.registry", str(PORT), *repositories)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise AssertionError(f"the registry ended with {process.wait()}")
    return process


class _Blobs(dict[str, tuple[str, bytes]]):
    """Media types and contents, by path below ``/v2/``."""

    def put(self, repository: str, kind: str, content: bytes) -> dict[str, Any]:
        """Have a blob; return its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = "manifests" if kind == _MANIFEST else "blobs"
        self[f"{repository}/{place}/{digest}"] = kind, content
        return {"mediaType": kind, "size": len(content), "digest": digest}

    def image(self, repository: str) -> None:
        """Have an image."""
        layer = tar_of({"name": repository.encode()})
        digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
        config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/name"]}}
        config["rootfs"] = {"type": "layers", "diff_ids": [digest]}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self.put(repository, _CONFIG, json.dumps(config).encode()),
            "layers": [self.put(repository, _LAYER, gzip.compress(layer))],
        }
        content = json.dumps(manifest).encode()
        self.put(repository, _MANIFEST, content)
        self[f"{repository}/manifests/1"] = _MANIFEST, content


def main(port: int, repositories: list[str]) -> None:
    """Serve images."""
    blobs = _Blobs()
    blobs[""] = "application/json", b"{}"
    for repository in repositories:
        blobs.image(repository)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, content = blobs.get(self.path.removeprefix("/v2/"), ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # the standard library's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
