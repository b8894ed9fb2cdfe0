"""The same build directly and through the tracker: the same status, the same words, the same image but for its label.

What is compared word for word is what ``tests/support/plain_progress.py`` leaves. Each build has a word of its own in
its steps, so that neither finds the other's in the cache. DOCKER_TRACKER_TEST_CONTEXT_MIB=1024 makes the large context
larger.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.builds import CGROUP, CLIENT_SECONDS, BuildCase
from tests.support.plain_progress import told

CONTEXT_MIB = int(os.environ.get("DOCKER_TRACKER_TEST_CONTEXT_MIB", "300"))
MIB = 1024 * 1024
DOCKERFILE = "FROM busybox:local\nRUN echo {mark} > /made\nLABEL theirs=1\n"
TARGETS = "FROM busybox:local\nARG of\nRUN echo {mark} $of > /made\n"
PLAIN: Mapping[str, str | Path] = {"Dockerfile": DOCKERFILE}
TAG = "{mark}:1"
LABEL = "Created-Via"


class SameTests(BuildCase):
    """With the interceptors that a tracker has by default."""

    maxDiff = None

    def setUp(self) -> None:
        self.begin_with_buildx()
        self.outputs = ""
        self.known: set[str] = set()

    def sides(self) -> list[tuple[str, dict[str, str]]]:
        """Return the addresses, first the engine's own, and the words that are another on each."""
        found = []
        for letter, address in (("d", self.engine), ("t", self.daemon.address)):
            output = self.directory / f"output-{letter}"
            output.mkdir(exist_ok=True)
            context = str(self.directory / f"context-{letter}")
            found.append((address, {"mark": f"{self.mark}{letter}", "output": str(output), "context": context}))
        return found

    def write(self, files: Mapping[str, str | Path], words: Mapping[str, str]) -> None:
        """Have a context of this side's, since BuildKit asks once only for what is the same; it becomes the directory.

        :param files: their texts, in which ``{mark}`` stands for this side's; or files that are there.
        """
        self.context = Path(words["context"])
        for name, text in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, Path):
                path.hardlink_to(text)
            else:
                path.write_text(_filled(text, words))

    def seen(self, result: tuple[int, str, str], words: Mapping[str, str]) -> Any:
        """Return what a user sees of a build, to be compared."""
        status, output, errors = result
        self.outputs += output + errors
        files = {
            str(path.relative_to(words["output"])): path.read_text().replace(words["mark"], "mark")
            for path in sorted(Path(words["output"]).rglob("*"))
            if path.is_file() and path.suffix != ".tar"
        }
        return status, told(output, **words), told(errors, **words), files

    def same(
        self,
        *arguments: str,
        files: Mapping[str, str | Path] = PLAIN,
        tags: tuple[str, ...] = (TAG,),
        status: int | None = 0,
        data: str = "",
        forged: bool = False,
    ) -> None:
        """Run the client on both sides and compare what is seen of it, and the images.

        :param files: the context.
        :param tags: of the images to which it leads; they are looked at if it went well.
        :param status: what it must end with; None: whatever it is.
        :param data: its standard input.
        :param forged: whether the client sets the operator's label itself.
        """
        seen, images = [], []
        for address, words in self.sides():
            self.write(files, words)
            filled = [_filled(argument, words) for argument in arguments]
            result = self.run_client(*filled, address=address, data=_filled(data, words).encode())
            if status is not None:
                self.assertEqual(result[0], status, result[1] + result[2])
            seen.append(self.seen(result, words))
            names = [_filled(tag, words) for tag in tags] if result[0] == 0 else []
            images.append([self.image(name) for name in names])
            if address != self.engine and result[0] == 0:
                expected = {image["Id"] for image in images[-1]} | set(names)
                made = {name for name, relation in self.recorded().items() if relation == "made"}
                self.known |= expected
                self.assertEqual(made, self.known)
        self.assertEqual(seen[1], seen[0])
        for direct, through in zip(*images, strict=True):
            labels = [image["Config"].pop("Labels") or {} for image in (direct, through)]
            self.assertEqual(labels[1], {**labels[0], LABEL: "docker-tracker"})
            self.assertEqual(LABEL in labels[0], forged)
            self.assertEqual(_compared(through, self.mark), _compared(direct, self.mark))
        self.check_log()

    def test_build(self) -> None:
        """``docker build``."""
        self.same("build", "-t", TAG, ".")

    def test_quiet(self) -> None:
        """``-q`` prints the ID of the image, and nothing else."""
        self.same("build", "-q", "-t", TAG, ".")
        for side in "dt":
            self.assertIn(self.image(f"{self.mark}{side}:1")["Id"], self.outputs.splitlines())

    def test_load(self) -> None:
        """``buildx build --load``."""
        self.same("buildx", "build", "--load", "-t", TAG, ".")

    def test_cached(self) -> None:
        """Of a build of several stages that is done again, every step is found in the cache."""
        stages = "FROM busybox:local AS a\nRUN echo {mark} > /a\nFROM busybox:local\nCOPY --from=a /a /b\nRUN cat /b\n"
        for cached in (0, 3):
            self.outputs = ""
            self.same("build", "-t", TAG, ".", files={"Dockerfile": stages})
            self.assertEqual(len(re.findall(r"^#\d+ \[.*(?:RUN|COPY) .*\n#\d+ CACHED", self.outputs, re.M)), 2 * cached)

    def test_local_output(self) -> None:
        """``--output=DIRECTORY`` writes the same files."""
        files = {"Dockerfile": "FROM scratch\nCOPY a /b/c\n", "a": "{mark}"}
        self.same("build", "--output={output}", ".", files=files, tags=())
        for side in "dt":
            self.assertEqual((self.directory / f"output-{side}/b/c").read_text(), f"{self.mark}{side}")

    def test_docker_output(self) -> None:
        """``--output=type=docker`` writes an archive, where the engine has the containerd store; else it is refused."""
        self.same("build", "--output=type=docker,dest={output}/image.tar", ".", tags=(), status=None)
        written = [(self.directory / f"output-{side}/image.tar").exists() for side in "dt"]
        self.assertEqual(written[1], written[0])

    def test_parallel(self) -> None:
        """Four builds side by side."""
        found = []
        for address, words in self.sides():
            started = []
            for number in range(4):
                self.write({f"{number}/Dockerfile": f"{DOCKERFILE}RUN echo {number}\n"}, words)
                tag = f"{words['mark']}:{number}"
                started.append(self.start("build", "-t", tag, str(number), address=address))
            ends = [(*process.communicate(timeout=CLIENT_SECONDS), process.returncode) for process in started]
            self.assertEqual([status for *_, status in ends], [0] * 4, ends)
            found.append([self.seen((status, one.decode(), two.decode()), words) for one, two, status in ends])
        self.assertEqual(found[1], found[0])
        tags = {tag for tag in self.recorded() if self.mark in tag}
        self.assertEqual(tags, {f"{self.mark}t:{number}" for number in range(4)})
        self.check_log()

    def test_bake(self) -> None:
        """``buildx bake`` of three targets."""
        names = ("one", "two", "three")
        targets = {name: {"tags": [f"{{mark}}:{name}"], "args": {"of": name}} for name in names}
        bake = {"group": {"default": {"targets": names}}, "target": targets}
        files = {"Dockerfile": TARGETS, "bake.json": json.dumps(bake)}
        self.same("buildx", "bake", "-f", "bake.json", files=files, tags=tuple(f"{{mark}}:{name}" for name in names))

    def test_secret_and_ssh(self) -> None:
        """A secret and an agent with a key reach the steps, and nothing else."""
        key = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        secret, agent = (
            "RUN --mount=type=secret,id=s cat /run/secrets/s # {mark}",
            "RUN --mount=type=ssh test -S $SSH_AUTH_SOCK",
        )
        files = {
            "Dockerfile": f"FROM busybox:local\n{secret}\n{agent} # {{mark}}\n",
            "s": "hush {mark}",
            "key": key.decode(),
        }
        self.same("build", "-t", TAG, "--secret=id=s,src=s", "--ssh=default=key", ".", files=files)
        self.assertIn(f"hush {self.mark}t", self.outputs)
        self.daemon.stop()
        self.assertNotIn("hush", self.daemon.output() + self.audit_log.read_text())

    def test_fails(self) -> None:
        """A step that fails: its output, its place in the Dockerfile, its status."""
        files = {"Dockerfile": "FROM busybox:local\nRUN echo {mark} and out; exit 7\n"}
        self.same("build", "-t", TAG, ".", files=files, status=1)
        self.assertIn("exit code: 7", self.outputs)

    def test_interrupted(self) -> None:
        """A client that is interrupted, or killed, in a step."""
        for number in (signal.SIGINT, signal.SIGKILL):
            ends = []
            for address, words in self.sides():
                seconds = uuid.uuid4().int % 10**9
                self.write({"Dockerfile": f"FROM busybox:local\nRUN sleep {seconds}\n"}, words)
                process = self.start("build", "-t", f"{words['mark']}:1", ".", address=address)
                self.until_steps(seconds, 1)
                os.killpg(process.pid, number)
                errors = process.communicate(timeout=CLIENT_SECONDS)[1].decode()
                self.until_steps(seconds, 0)
                ends.append((process.returncode, told(errors.splitlines()[-1]) if number == signal.SIGINT else None))
            self.assertEqual(ends[1], ends[0])
            self.assertNotEqual(ends[1][0], 0)

    def test_own_label(self) -> None:
        """The client's own label stays, but one that has the operator's name."""
        self.same("build", "-t", TAG, "--label=own=1", f"--label={LABEL}=client", ".", forged=True)
        self.assertEqual(self.image(f"{self.mark}t:1")["Config"]["Labels"]["own"], "1")

    def test_own_cgroup_parent(self) -> None:
        """The client's own cgroup parent is the steps', since none is set here."""
        files = {"Dockerfile": "FROM busybox:local\nRUN sed s/[^/]*$// /proc/self/cgroup # {mark}\n"}
        self.same("build", "-t", TAG, f"--cgroup-parent={CGROUP}", ".", files=files)
        self.assertIn(f":{CGROUP}/", self.outputs)

    def test_platforms(self) -> None:
        """Two platforms at once, where the engine has the containerd store; else they are refused."""
        files = {"Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "{mark}"}
        self.same("build", "-t", TAG, "--platform=linux/amd64,linux/arm64", ".", files=files, status=None)

    def test_provenance(self) -> None:
        """``--provenance=mode=max``, where the engine has the containerd store; else it is refused."""
        self.same("build", "-t", TAG, "--provenance=mode=max", ".", status=None)

    def test_push(self) -> None:
        """A push that fails: the reason is told, and the image is there."""
        tag = "127.0.0.1:1/{mark}:1"
        self.same("build", "-t", tag, "--push", ".", status=1)
        self.assertIn("connection refused", self.outputs)
        identifier = self.image(f"127.0.0.1:1/{self.mark}t:1")["Id"]
        self.assertEqual(self.recorded(), dict.fromkeys((identifier, f"127.0.0.1:1/{self.mark}t:1"), "made"))

    def test_compose(self) -> None:
        """``docker compose build`` of two services."""
        services = {
            name: {"build": {"context": ".", "args": {"of": name}}, "image": f"{{mark}}:{name}"} for name in "ab"
        }
        files = {"Dockerfile": TARGETS, "c.json": json.dumps({"services": services})}
        arguments = ("compose", "-p", "dt-same", "-f", "c.json", "build")
        self.same(*arguments, files=files, tags=("{mark}:a", "{mark}:b"))

    def test_standard_input(self) -> None:
        """A Dockerfile from standard input, with a context and without."""
        self.same("build", "-t", TAG, "-f", "-", ".", files={"a": "{mark}"}, data=f"{DOCKERFILE}COPY a /a\n")
        self.same("build", "-t", "{mark}:2", "-", tags=("{mark}:2",), files={"a": ""}, data=f"{DOCKERFILE}RUN echo 2\n")

    def test_named_context(self) -> None:
        """``--build-context``."""
        files = {"Dockerfile": "FROM busybox:local\nCOPY --from=other a /a\n", "theirs/a": "{mark}"}
        self.same("build", "-t", TAG, "--build-context=other=theirs", ".", files=files)

    def test_check(self) -> None:
        """``--check`` tells what is wrong with a Dockerfile, and builds nothing."""
        files = {"Dockerfile": "from busybox:local\nRUN echo {mark}\nMAINTAINER me\n"}
        self.same("build", "--check", "-t", TAG, ".", files=files, tags=(), status=None)
        self.assertEqual(self.recorded(), {})

    def test_large_context(self) -> None:
        """A context of hundreds of megabytes arrives whole."""
        large = self.directory / "large"
        with large.open("w+b") as file:
            file.truncate((CONTEXT_MIB - 1) * MIB)
            file.seek(0, os.SEEK_END)
            file.write(os.urandom(MIB))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
        recipe = "FROM busybox:local\nRUN --mount=target=/c sha256sum /c/large # {mark}\n"
        files: dict[str, str | Path] = {"Dockerfile": recipe, "large": large}
        self.same("build", "-t", TAG, ".", files=files)
        self.assertEqual(self.outputs.count(f"{digest.hexdigest()}  /c/large\n"), 2)


def _filled(text: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


def _compared(image: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return what of an image is the same in one that was built like it."""
    kept = {name: image[name] for name in ("Architecture", "Os", "Author", "Config")}
    text = json.dumps({**kept, "Layers": len(image["RootFS"]["Layers"])})
    compared: dict[str, Any] = json.loads(re.sub(f"{mark}[dt]", "mark", text))
    compared["Config"].pop("Image", None)  # a digest, that some engines have here
    return compared
