"""Lines of a JSON stream say what was made, and only the engine's own words count."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.catalogue import operation
from docker_tracker.engine.document import Document
from docker_tracker.engine.lines import created_by_line, steps_of_line

HEX = "0123456789abcdef" * 4
DIGEST = "sha256:" + HEX

# operation, quiet, line, what it says was made
LINES: list[tuple[str, bool, Any, str | None]] = [
    ("image_build", False, {"aux": {"ID": DIGEST}}, DIGEST),
    ("image_build", False, {"id": "moby.image.id", "aux": {"ID": DIGEST}}, DIGEST),
    ("image_build", False, {"id": "moby.buildkit.trace", "aux": "c29tZQ=="}, None),
    ("image_build", False, {"aux": {"ID": "busybox"}}, None),
    ("image_build", False, {"aux": {"ID": 5}}, None),
    ("image_build", False, {"stream": DIGEST + "\n"}, None),  # a RUN step can print that
    ("image_build", True, {"stream": DIGEST + "\n"}, DIGEST),
    ("image_build", True, {"stream": "Step 1/2 : FROM x\n"}, None),
    ("image_build", False, {"stream": "Successfully built 0123456789ab\n"}, None),
    ("image_build", False, {"errorDetail": {"message": "x"}, "error": "x"}, None),
    ("image_load", False, {"stream": "Loaded image: localhost:5000/a/b:tag\n"}, "localhost:5000/a/b:tag"),
    ("image_load", False, {"stream": f"Loaded image ID: {DIGEST}\n"}, DIGEST),
    ("image_load", False, {"stream": "Loaded image ID: busybox\n"}, None),
    ("image_load", False, {"stream": "x Loaded image: a\n"}, None),
    ("image_load", False, {"status": "Loading layer", "id": "abc"}, None),
    ("image_create", False, {"status": DIGEST}, DIGEST),
    ("image_create", False, {"status": "Digest: " + DIGEST}, None),
    ("image_create", False, {"status": "Status: Downloaded newer image for a/b:latest"}, "a/b:latest"),
    ("image_create", False, {"status": "Status: Image is up to date for a/b:latest"}, None),
    ("image_create", False, {"status": "Pulling from a/b", "id": "latest"}, None),
    ("image_create", False, "text", None),
    ("image_push", False, {"aux": {"ID": DIGEST}}, None),
    ("events", False, {"status": DIGEST}, None),
]


class LinesTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Each line says what the table says."""
        for name, quiet, line, identifier in LINES:
            with self.subTest(operation=name, line=line):
                expected = () if identifier is None else (("image", identifier),)
                self.assertEqual(created_by_line(operation(name), Document.of(line), quiet), expected)

    def test_podmans_own(self) -> None:
        """Podman's own API tells of images by Names or by a bare ID; a build by aux, as the other one does."""
        for operation_name, text, expected in (
            ("libpod_image_load", '{"Names":["localhost/a:1",5]}', ["localhost/a:1"]),
            ("libpod_image_pull", f'{{"images":["{HEX}"],"id":"{HEX}"}}', [f"sha256:{HEX}"]),
            ("libpod_image_import", f'{{"Id":"sha256:{HEX}"}}', [f"sha256:{HEX}"]),
            ("libpod_image_commit", '{"stream":"x"}', []),
            ("libpod_image_build", f'{{"Id":"{HEX}"}}', []),
            ("libpod_image_build", f'{{"aux":{{"ID":"sha256:{HEX}"}}}}', [f"sha256:{HEX}"]),
        ):
            found = created_by_line(operation(operation_name), Document.parse(text.encode()))
            self.assertEqual([*found], [("image", name) for name in expected])


class StepTests(SynchronousTestCase):
    def test_steps(self) -> None:
        """(line, what it may say of a build's steps)"""
        start = HEX[:12]
        for line, expected in (
            ({"stream": f" ---> Running in {start}\n"}, [("container", start)]),
            ({"stream": f" ---> {start}\n"}, [("image", start)]),
            ({"stream": f"--> {start}\n"}, [("image", start)]),  # Buildah's
            ({"stream": f"--> {HEX[:11]}\n"}, [("image", HEX[:11])]),  # in Podman 4
            ({"stream": f"--> {HEX[:10]}\n"}, []),
            ({"stream": " ---> Using cache\n"}, [("cache", "")]),
            ({"stream": f"--> Using cache {HEX}\n"}, [("cache", "")]),
            (
                {"stream": f"Step 1\n ---> {start}\n ---> Running in {start}\n"},
                [("image", start), ("container", start)],
            ),
            ({"stream": " ---> \n"}, []),
            ({"stream": f" ---> Running in {HEX}\n"}, []),
            ({"stream": f"x ---> {start}\n"}, []),
            ({"stream": f"Removing intermediate container {start}\n"}, []),
            ({"stream": 5}, []),
            ({"aux": {"ID": DIGEST}}, []),
            ("text", []),
        ):
            self.assertEqual(steps_of_line(Document.of(line)), expected, line)
