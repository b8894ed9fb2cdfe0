"""BuildKit's messages: read as protobuf's own library reads them, edited without loss, refused where readers differ."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildEdit, BuildRequest, BuildStep, Exporter
from docker_tracker.errors import BadGrpcError
from docker_tracker.http2.grpc import read_call
from docker_tracker.http2.messages import edited, read_answer, read_request
from docker_tracker.http2.protobuf import MAX_FIELDS, Message, as_bytes, as_text, length_field, varint
from tests.support.http2 import entries


def _judge() -> dict[str, Any]:
    """Make the messages' classes with protobuf's own library."""
    file = descriptor_pb2.FileDescriptorProto(name="judge.proto", package="judge", syntax="proto3")
    kinds = {"string": 9, "bytes": 12, "bool": 8}

    def add(name: str, fields: dict[str, tuple[int, str]]) -> None:
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            made = message.field.add(name=field, number=number, label=1)
            if kind.startswith("map"):
                entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
                entry.options.map_entry = True
                for place, part in enumerate(("string", kind[4:]), start=1):
                    entry.field.add(name=("key", "value")[place - 1], number=place, label=1, type=kinds[part])
                made.label, made.type, made.type_name = 3, 11, f".judge.{name}.{entry.name}"
            elif kind in kinds:
                made.type = kinds[kind]
            else:
                made.type, made.type_name = 11, f".judge.{kind.removeprefix('*')}"
                made.label = 3 if kind.startswith("*") else 1

    add("Exporter", {"type": (1, "string"), "attrs": (2, "map string")})
    add(
        "Solve",
        {
            "ref": (1, "string"),
            "definition": (2, "bytes"),
            "exporter": (3, "string"),
            "exporterattrs": (4, "map string"),
            "session": (5, "string"),
            "frontend": (6, "string"),
            "attrs": (7, "map string"),
            "internal": (11, "bool"),
            "exporters": (13, "*Exporter"),
        },
    )
    add(
        "Frontend",
        {"definition": (1, "bytes"), "frontend": (2, "string"), "opt": (3, "map string"), "final": (10, "bool")},
    )
    add("Result", {"ref": (3, "bytes"), "metadata": (10, "map bytes")})
    add("Return", {"result": (1, "Result"), "error": (2, "bytes")})
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"judge.{name}"))
        for name in ("Exporter", "Solve", "Frontend", "Result", "Return")
    }


JUDGE = _judge()
TEXTS = st.text(max_size=6)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=4)
CHANGES = st.dictionaries(TEXTS, st.none() | TEXTS, max_size=3)
UNKNOWN = st.sampled_from((b"", length_field(99, b"kept"), b"\xa0\x06\x81\x00", b"\xa5\x06abcd", b"\xa1\x06abcdefgh"))


def changed(old: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a map with changes."""
    return {key: value for key, value in {**old, **changes}.items() if value is not None}


class JudgedTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(TEXTS, TEXTS, MAPS, st.lists(st.tuples(TEXTS, MAPS), max_size=3), CHANGES, CHANGES, UNKNOWN)
    def test_solve(
        self,
        frontend: str,
        ref: str,
        attributes: dict[str, str],
        exporters: list[tuple[str, dict[str, str]]],
        changes: dict[str, str | None],
        exporter_changes: dict[str, str | None],
        unknown: bytes,
    ) -> None:
        """A SOLVE is read and edited as protobuf's library would; unknown fields stay."""
        message = JUDGE["Solve"](ref=ref, frontend=frontend, attrs=attributes, definition=b"x" if ref else b"")
        for kind, options in exporters:
            message.exporters.append(JUDGE["Exporter"](type=kind, attrs=options))
        data = unknown + message.SerializeToString() + unknown
        request = read_request(BuildStep.SOLVE, data, "")
        self.assertEqual((request.build, request.frontend, request.attributes), (ref, frontend, attributes))
        self.assertEqual([(exporter.kind, exporter.attributes) for exporter in request.exporters], exporters)
        self.assertEqual(request.definition, bool(ref))
        edit = BuildEdit(attributes=changes, exporter_attributes=exporter_changes)
        new = edited(BuildStep.SOLVE, data, edit)
        parsed = JUDGE["Solve"].FromString(new)
        self.assertEqual(dict(parsed.attrs), changed(attributes, changes))
        self.assertEqual(
            [(exporter.type, dict(exporter.attrs)) for exporter in parsed.exporters],
            [(kind, changed(options, exporter_changes)) for kind, options in exporters],
        )
        self.assertEqual((parsed.ref, parsed.definition), (message.ref, message.definition))
        self.assertTrue(new.startswith(unknown))
        self.assertEqual(new.count(unknown) if unknown else 2, 2)
        self.assertEqual(edited(BuildStep.SOLVE, data, BuildEdit()), data)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(TEXTS, MAPS, CHANGES, st.booleans(), UNKNOWN)
    def test_frontend(
        self, frontend: str, attributes: dict[str, str], changes: dict[str, str | None], flag: bool, unknown: bytes
    ) -> None:
        """A FRONTEND is read and edited as protobuf's library would."""
        message = JUDGE["Frontend"](frontend=frontend, opt=attributes, final=flag, definition=b"x" if flag else b"")
        data = message.SerializeToString() + unknown
        request = read_request(BuildStep.FRONTEND, data, "id")
        self.assertEqual(
            request,
            BuildRequest(
                step=BuildStep.FRONTEND,
                build="id",
                frontend=frontend,
                attributes=attributes,
                final=flag,
                definition=flag,
            ),
        )
        parsed = JUDGE["Frontend"].FromString(edited(BuildStep.FRONTEND, data, BuildEdit(attributes=changes)))
        self.assertEqual(dict(parsed.opt), changed(attributes, changes))
        self.assertEqual((parsed.frontend, parsed.final), (frontend, flag))

    def test_result(self) -> None:
        """A RESULT's configurations are replaced in every part of it; other metadata stays."""
        first = JUDGE["Return"](result={"ref": b"r", "metadata": {"containerimage.config": b"1", "x": b"\xff"}})
        second = JUDGE["Return"](result={"metadata": {"containerimage.config/linux/arm64": b"2", "y": b""}})
        data = first.SerializeToString() + second.SerializeToString()
        request = read_request(BuildStep.RESULT, data, "id")
        configs = {"containerimage.config": b"1", "containerimage.config/linux/arm64": b"2"}
        self.assertEqual((request.image_configs, request.failed), (configs, False))
        new = edited(BuildStep.RESULT, data, BuildEdit(image_configs={**dict.fromkeys(configs, b"3"), "x": None}))
        parsed = JUDGE["Return"].FromString(new)
        self.assertEqual(parsed.result.ref, b"r")
        self.assertEqual(dict(parsed.result.metadata), {**dict.fromkeys(configs, b"3"), "y": b""})
        failed = length_field(2, b"status")
        self.assertTrue(read_request(BuildStep.RESULT, failed, "").failed)
        self.assertEqual(edited(BuildStep.RESULT, failed, BuildEdit(image_configs={"a": b""})), failed)

    def test_many_results(self) -> None:
        """What is changed is gone through once, not for each of the results, of which a client may send thousands."""

        class Counted(dict[str, bytes]):
            times = 0

            def items(self) -> Any:
                self.times += 1
                return super().items()

        keys = [f"containerimage.config/{number}" for number in range(50)]
        results = [JUDGE["Return"](result={"metadata": {key: b"1"}}).SerializeToString() for key in keys]
        changes = Counted(dict.fromkeys(keys, b"2"))
        new = edited(BuildStep.RESULT, b"".join(results), BuildEdit(image_configs=changes))
        self.assertEqual(dict(JUDGE["Return"].FromString(new).result.metadata), dict(changes))
        self.assertEqual(changes.times, 1)

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(st.binary(max_size=60))
    def test_random_bytes(self, data: bytes) -> None:
        """What we take the library takes, too, and reads as we do."""
        try:
            request = read_request(BuildStep.FRONTEND, data, "")
        except BadGrpcError:
            return
        try:
            parsed = JUDGE["Frontend"].FromString(data)
        except Exception:
            # It refuses texts that are no UTF-8, as new engines do; old ones take them, and so do we.
            texts = [request.frontend, *request.attributes, *request.attributes.values()]
            self.assertTrue(any("\udc80" <= letter <= "\udcff" for text in texts for letter in text))
            return
        self.assertEqual((request.frontend, request.attributes), (parsed.frontend, dict(parsed.opt)))
        self.assertEqual(request.final, parsed.final)


class ReadTests(SynchronousTestCase):
    def test_deprecated_exporter(self) -> None:
        """An exporter of the old fields counts if it says something else than those of the new one."""
        old = length_field(3, b"image") + entries(4, {"name": "a"})
        new = length_field(13, length_field(1, b"image") + entries(2, {"name": "a"}))
        other = length_field(13, length_field(1, b"local"))
        image = Exporter("image", {"name": "a"})
        for data, exporters in ((old, (image,)), (old + new, (image,)), (old + other, (Exporter("local", {}), image))):
            self.assertEqual(read_request(BuildStep.SOLVE, data, "").exporters, exporters)
        edit = BuildEdit(exporter_attributes={"name": None, "b": "c"})
        for data in (old, old + new):
            found = read_request(BuildStep.SOLVE, edited(BuildStep.SOLVE, data, edit), "").exporters
            self.assertEqual(found, (Exporter("image", {"b": "c"}),))
        untouched = entries(4, {"name": "a"})
        self.assertEqual(edited(BuildStep.SOLVE, untouched, edit), untouched)

    def test_doubles(self) -> None:
        """Of a field that stands twice the last one counts; edits leave none of it."""
        twice = entries(3, {"a": "1"}) + length_field(2, b"x") + entries(3, {"a": "2"}) + length_field(2, b"y")
        request = read_request(BuildStep.FRONTEND, twice, "")
        self.assertEqual((request.frontend, request.attributes), ("y", {"a": "2"}))
        new = edited(BuildStep.FRONTEND, twice, BuildEdit(attributes={"a": "3"}))
        self.assertEqual(new, length_field(2, b"x") + length_field(2, b"y") + entries(3, {"a": "3"}))

    def test_no_text(self) -> None:
        """Bytes that are no UTF-8 survive."""
        data = length_field(3, length_field(1, b"\xff") + length_field(2, b"\xfe"))
        attributes = read_request(BuildStep.FRONTEND, data, "").attributes
        self.assertEqual([(as_bytes(key), as_bytes(value)) for key, value in attributes.items()], [(b"\xff", b"\xfe")])
        self.assertEqual(edited(BuildStep.FRONTEND, data, BuildEdit(attributes=dict(attributes))), data)
        self.assertEqual(edited(BuildStep.FRONTEND, data, BuildEdit(attributes={as_text(b"\xff"): None})), b"")

    def test_refused(self) -> None:
        """What is broken, or read differently by different readers, is refused."""
        for data, problem in (
            (b"\x80", "ends within a number"),
            (b"\xff" * 9 + b"\x02", "more than 64 bits"),
            (b"\xff" * 11, "more than 64 bits"),
            (b"\x00\x00", "field number"),
            (varint(2**32 << 3 | 2) + b"\x00", "field number"),
            (b"\x12\x05abc", "ends within a field"),
            (b"\x12" + varint(2**62), "ends within a field"),
            (b"\x0d123", "ends within a field"),
            (b"\x13", "wire type 3"),
            (b"\x16", "wire type 6"),
            (b"\x10\x01", "wrong wire type"),  # the frontend, as a number
            (b"\x1a\x02\x08\x01", "wrong wire type"),  # a key, as a number
            (length_field(10, b"\x01"), "wrong wire type"),  # a flag, as bytes
        ):
            error = self.assertRaises(BadGrpcError, read_request, BuildStep.FRONTEND, data, "")
            self.assertIn(problem, str(error))

    def test_bounds(self) -> None:
        """Too many fields are refused, also when they stand in many parts; 3,000 options are taken."""
        many = length_field(13, b"\x48\x01" * 4_000)
        self.assertIn("fields", str(self.assertRaises(BadGrpcError, read_request, BuildStep.SOLVE, many * 100, "")))
        self.assertIn("fields", str(self.assertRaises(BadGrpcError, Message, b"\x08\x01" * (MAX_FIELDS + 1))))
        read_request(BuildStep.FRONTEND, entries(3, {str(number): "x" for number in range(3_000)}), "")
        error = self.assertRaises(
            BadGrpcError,
            read_request,
            BuildStep.FRONTEND,
            entries(3, {str(number): "x" for number in range(10_000)}),
            "",
        )
        self.assertEqual(str(error), "it has more than 10000 fields, some 3333 options: give the build fewer")

    def test_halves(self) -> None:
        """Of results that stand twice each is a message; two halves of one are refused, as the engine does it."""
        whole = entries(10, {"containerimage.config": b"{}"})
        halves = length_field(1, whole[:5]) + length_field(1, whole[5:])
        self.assertRaises(BadGrpcError, read_request, BuildStep.RESULT, halves, "")

    def test_long_id(self) -> None:
        """A build's ID is short, or the request is none."""
        self.assertEqual(read_request(BuildStep.SOLVE, length_field(1, b"a" * 256), "").build, "a" * 256)
        error = self.assertRaises(BadGrpcError, read_request, BuildStep.SOLVE, length_field(1, b"a" * 257), "")
        self.assertIn("ID", str(error))
        for size, expected in ((256, "a" * 256), (257, "")):
            fields = {b":path": [b"/a.B/C"], b"buildkit-controlapi-buildid": [b"a" * size]}
            self.assertEqual(read_call(fields), ("/a.B/C", expected))

    def test_answer(self) -> None:
        """An answer is what the exporters say."""
        self.assertEqual(read_answer(entries(1, {"image.name": "a"})), {"image.name": "a"})
        self.assertRaises(BadGrpcError, read_answer, b"\x08\x01")
