"""Bodies are read as Go reads them, or refused; edits touch nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.document import MISSING, Change, Document, Number, Path, fold, parse_map
from docker_tracker.errors import BadDocumentError

# What is refused, and a piece of the sentence that says why.
REFUSED: list[tuple[bytes, str]] = [
    (b'{"Labels":{},"labels":{}}', "'Labels' and 'labels' are one key"),
    (b'{"HostConfig":{"Privileged":true,"PRIVILEGED":false}}', "'Privileged' and 'PRIVILEGED'"),
    (b'{"Labels":{},"Labels":{}}', "'Labels' stands twice"),
    ('{"Labels":null,"Label\u017f":{}}'.encode(), "are one key"),
    ('{"NetworkMode":"a","Networ\u212aMode":"b"}'.encode(), "are one key"),
    (b'{"Label\\u017f":{},"Labels":{}}', "are one key"),
    (b'{"\\u004cabels":{},"Labels":{}}', "stands twice"),
    (b'{"x\\u0000y":1,"a":1,"A":2}', "'a' and 'A'"),
    (b'{"a":1,"x\\u0000a":1,"a":1}', "'a' stands twice"),
    (b'{"Mounts":[{"Source":"a","source":"b"}]}', "'Source' and 'source'"),
    (b'{"Labels":{"a":"1","a":"2"}}', "'a' stands twice"),
    (b'{"Labels":{"a":{"b":1,"B":2}}}', "'b' and 'B'"),  # a map's values are structs
    (b'{"Networks":{"Labels":{"b":1,"B":2}}}', "'b' and 'B'"),  # whatever the user called them
    (b'{"Config":{"a":1,"A":2}}', "'a' and 'A'"),  # a map in LogConfig only
    (b'[{"a":1,"A":2}]', "'a' and 'A'"),
    (b"{} {}", "Extra data at character 3"),
    (b"{}x", "Extra data"),
    (b"{}\0", "Extra data"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b'{"a":"\xff"}', "byte 6 is not UTF-8"),
    (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),  # an encoded surrogate
    ("{}".encode("utf-16"), "not UTF-8"),
    ("{}".encode("utf-16-le"), "Expecting"),
    (b'{"a":NaN}', "NaN is not JSON"),
    (b'{"a":Infinity}', "Infinity is not JSON"),
    (b'{"a":-Infinity}', "-Infinity is not JSON"),
    (b'{"\\ud800":1}', "surrogate pair"),
    (b'{"Labels":{"\\udfff":"1"}}', "surrogate pair"),
    (b'{"a":"\n"}', "control character"),
    (b'{"a":"\x00"}', "control character"),
    (b"{'a':1}", "Expecting property name"),
    (b'{"a":01}', "Expecting ',' delimiter"),
    (b'{"a":+1}', "Expecting value"),
    (b'{"a":1.}', "Expecting ',' delimiter"),
    (b'{"a":1,}', "Expecting property name"),
    (b"[1,]", "Expecting value"),
    (b'{"a":"\\x41"}', "escape"),
    (b"{", "Expecting property name"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
    (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
    (b"[" * 1_000_000, "nested deeper than 64"),
]

ACCEPTED: list[tuple[bytes, Any]] = [
    (b"", {}),
    (b" \r\n\t", {}),
    (b' {"a" : 1}\n', {"a": 1}),
    (b'{"Labels":{"a":"1","A":"2"}}', {"Labels": {"a": "1", "A": "2"}}),
    (b'{"label\\u017f":{"a":"1","A":"2"}}', {"label\u017f": {"a": "1", "A": "2"}}),
    (
        b'{"HostConfig":{"LogConfig":{"Config":{"a":"1","A":"2"}}}}',
        {"HostConfig": {"LogConfig": {"Config": {"a": "1", "A": "2"}}}},
    ),
    (b'{"x\\u0000y":1,"b":2}', {"x\0y": 1, "b": 2}),
    (b'{"stra\xc3\x9fe":1,"strasse":2}', {"stra\xdfe": 1, "strasse": 2}),  # Go folds one rune to one rune
    (b'{"a":"\\ud83d\\ude00\\ud800"}', {"a": "\U0001f600\ud800"}),
    (b'"SWMKEY"', "SWMKEY"),
    (b"null", None),
    (b'{"a":"[[[{{{\\"[["}', {"a": '[[[{{{"[['}),
    (b"[" + b"[],{}," * 64 + b"[]]", [*([[], {}] * 64), []]),  # many, but not deep
]

NUMBERS = ["1.0", "1e400", "-0", "0.10", "1E5", "123456789012345678901234567890", "-0.0", "9" * 5000]

# path, value, before, after
EDITS: list[tuple[Path, Any, str, str]] = [
    (("Labels",), {"a": "b"}, "{}", '{"Labels":{"a":"b"}}'),
    (("Labels", "a"), "b", '{"Labels":null}', '{"Labels":{"a":"b"}}'),
    (("Labels", "a"), "b", '{"LABELS":{"A":"x"},"z":1}', '{"Labels":{"A":"x","a":"b"},"z":1}'),
    (("Labels", "a"), "b", '{"Label\u017f":{"a":"x"}}', '{"Labels":{"a":"b"}}'),
    (("HostConfig", "CgroupParent"), "/x", '{"q":1}', '{"q":1,"HostConfig":{"CgroupParent":"/x"}}'),
    (
        ("HostConfig", "CgroupParent"),
        "/x",
        '{"hostconfig":{"cgroupparent":"/y","Memory":1.0}}',
        '{"HostConfig":{"CgroupParent":"/x","Memory":1.0}}',
    ),
    (("Mounts", 1, "Source"), "v", '{"Mounts":[{},{"source":"u"},3]}', '{"Mounts":[{},{"Source":"v"},3]}'),
    (("Mounts", 0), "v", '{"mounts":[1,2]}', '{"Mounts":["v",2]}'),
    ((0,), 5, "[1]", "[5]"),
    (("Labels", "a"), "b", "null", '{"Labels":{"a":"b"}}'),
    (("a",), MISSING, '{"A":1,"b":-0}', '{"b":-0}'),
    (("Labels", "a"), MISSING, '{"labels":{"a":"1","A":"2"}}', '{"Labels":{"A":"2"}}'),
    (("Mounts", 0), MISSING, '{"Mounts":[1,2]}', '{"Mounts":[2]}'),
    (("a",), [Number("1.0"), True, None, "\u00e9", {"k": 1}], "{}", '{"a":[1.0,true,null,"\\u00e9",{"k":1}]}'),
]

WRONG_TYPES: list[tuple[Path, str, str]] = [
    (("Labels", "a"), '{"Labels":[]}', "Labels must be an object"),
    (("Labels", "a"), '{"Labels":"x"}', "Labels must be an object"),
    (("HostConfig", "LogConfig", "Type"), '{"HostConfig":{"LogConfig":3}}', "HostConfig.LogConfig must be an object"),
    (("Mounts", 0), '{"Mounts":{}}', "Mounts must be an array"),
    (("Mounts", 1), '{"Mounts":[1]}', "with an element 1"),
    (("Mounts", -1), '{"Mounts":[1]}', "with an element -1"),
    (("a",), '"text"', "it must be an object"),
    (("a",), "[]", "it must be an object"),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
REPEATABLE = settings(derandomize=True, deadline=None, max_examples=200)


def unambiguous(value: Any) -> bool:
    """Whether no object in a value has two keys that fold into one."""
    if isinstance(value, dict):
        return len({fold(key) for key in value}) == len(value) and all(map(unambiguous, value.values()))
    return all(map(unambiguous, value)) if isinstance(value, list) else True


class ParseTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """What two readers could read in two ways is refused with a 400 that names the fault."""
        for body, problem in REFUSED:
            with self.subTest(body=body[:60]):
                error = self.assertRaises(BadDocumentError, Document.parse, body)
                self.assertIn(problem, str(error))
                self.assertEqual(error.status, 400)

    def test_accepted(self) -> None:
        """What has one meaning is read so, and goes out as it came."""
        for body, value in ACCEPTED:
            with self.subTest(body=body[:60]):
                document = Document.parse(body)
                self.assertEqual(document.value, value)
                self.assertEqual(document.encode(), body)
                self.assertFalse(document.changed)

    def test_depth_is_a_setting(self) -> None:
        """The greatest depth is allowed, one more is not; brackets in strings don't count."""
        Document.parse(b"[" * 3 + b'"[[[["' + b"]" * 3, max_depth=3)
        self.assertRaises(BadDocumentError, Document.parse, b"[" * 4 + b"]" * 4, max_depth=3)

    def test_deeper_than_python(self) -> None:
        """Where Python itself gives up, so do we, with the same refusal."""
        error = self.assertRaises(BadDocumentError, Document.parse, b"[" * 100_000, max_depth=1_000_000)
        self.assertIn("too deep", str(error))

    def test_numbers_keep_their_text(self) -> None:
        """A number that Python would write differently is written as it came."""
        for text in NUMBERS:
            document = Document.parse(b'{"n":%s}' % text.encode())
            self.assertEqual(document.get("n"), Number(text))
            self.assertEqual(document.with_value(("a",), 1).encode(), b'{"n":%s,"a":1}' % text.encode())

    def test_plain_integers(self) -> None:
        """Numbers whose text is the usual one are plain integers."""
        for number in (0, -1, 7, 2**63 - 1, -(2**63)):
            value = Document.parse(str(number).encode()).value
            self.assertIs(type(value), int)
            self.assertEqual(value, number)


class MapTests(SynchronousTestCase):
    def test_accepted(self) -> None:
        """In a map the user's keys are exact; null and nothing are an empty one."""
        for body, value in ((b"", {}), (b" null ", {}), (b'{"a":"1","A":"2"}', {"a": "1", "A": "2"})):
            self.assertEqual(parse_map(body), value)

    def test_refused(self) -> None:
        """What is no object, or ambiguous, is refused."""
        for body, problem in (
            (b"[]", "must be an object"),
            (b'"a"', "must be an object"),
            (b'{"a":"1","a":"2"}', "stands twice"),
            (b'{"a":{"b":1,"B":2}}', "are one key"),
            (b'{"a":"1"', "Expecting"),
        ):
            self.assertIn(problem, str(self.assertRaises(BadDocumentError, parse_map, body)))


class GetTests(SynchronousTestCase):
    def test_reads_as_the_engine(self) -> None:
        """Fields match in any case, the keys of maps only exactly."""
        document = Document.parse(
            b'{"hostCONFIG":{"Networ\xe2\x84\xaaMode":"host","Label\xc5\xbf":{"a":1},"LogConfig":{"Config":{"k":"v"}}},'
            b'"Config":{"labels":{"K":"v"}},"Mounts":[{"type":"volume"}],"n":null,'
            b'"Networks":{"Labels":{"driveropts":{"x":1}}}}'
        )
        table: list[tuple[Path, Any]] = [
            (("HostConfig", "NetworkMode"), "host"),
            (("HostConfig", "Labels", "a"), 1),
            (("HostConfig", "Labels", "A"), None),
            (("HostConfig", "LogConfig", "Config", "K"), None),
            (("HostConfig", "LogConfig", "Config", "k"), "v"),
            (("Config", "Labels", "K"), "v"),
            (("Config", "Labels", "k"), None),
            (("Networks", "labels"), None),
            (("Networks", "Labels", "DriverOpts", "X"), None),
            (("Networks", "Labels", "DriverOpts", "x"), 1),
            (("Mounts", 0, "Type"), "volume"),
            (("Mounts", 1), None),
            (("Mounts", -1), None),
            (("Mounts", "Type"), None),
            (("Mounts", 0, 0), None),
            (("n",), None),
            (("n", "x"), None),
            (("missing",), None),
        ]
        for path, value in table:
            with self.subTest(path=path):
                self.assertEqual(document.get(*path), value)

    def test_default(self) -> None:
        """Missing and null give the default; false and zero are values."""
        document = Document.parse(b'{"n":null,"f":false,"z":0}')
        self.assertEqual([document.get(key, default=5) for key in "nfzx"], [5, False, 0, 5])

    def test_no_object(self) -> None:
        """In an answer that is a bare string nothing is found."""
        self.assertIsNone(Document.parse(b'"abc"').get("ID"))
        self.assertEqual(Document.parse(b'"abc"').get(), "abc")


class EditTests(SynchronousTestCase):
    def test_edits(self) -> None:
        """An edit is written once, in the given spelling; all else keeps its order and its text."""
        for path, value, before, after in EDITS:
            with self.subTest(path=path, before=before):
                document = Document.parse(before.encode())
                edited = document.without(path) if value is MISSING else document.with_value(path, value)
                self.assertEqual(edited.encode(), after.encode())
                self.assertEqual(edited.original, before.encode())
                self.assertEqual(document.encode(), before.encode())

    def test_wrong_types(self) -> None:
        """An edit below what is no object is refused, not forced."""
        for path, before, problem in WRONG_TYPES:
            with self.subTest(path=path, before=before):
                document = Document.parse(before.encode())
                error = self.assertRaises(BadDocumentError, document.with_value, path, "v")
                self.assertIn(problem, str(error))

    def test_changes(self) -> None:
        """Every edit is told, in order, with what was there before."""
        document = Document.parse(b'{"a":1,"n":null}').with_value(("A",), 2).with_value(("b", "c"), 3).without(("n",))
        self.assertTrue(document.changed)
        self.assertEqual(
            document.changes,
            (Change(("A",), 1, 2), Change(("b", "c"), MISSING, 3), Change(("n",), None, MISSING)),
        )
        self.assertEqual(repr(MISSING), "MISSING")

    def test_without_what_is_not_there(self) -> None:
        """To take away what is not there is no change."""
        document = Document.parse(b'{"a":[1]}')
        for path in ((), ("b",), ("a", 1), ("a", "x")):
            self.assertIs(document.without(path), document)

    def test_path_is_needed(self) -> None:
        """The document as a whole is not replaced by an edit."""
        self.assertRaises(ValueError, Document.of({}).with_value, (), {})

    def test_of(self) -> None:
        """A document of a value is unchanged; what JSON has no form for is no value."""
        document = Document.of({"a": (1, "\u00e9")})
        self.assertEqual((document.encode(), document.changes), (b'{"a":[1,"\\u00e9"]}', ()))
        self.assertRaises(ValueError, Document.of, float("nan"))
        self.assertRaises(TypeError, Document.of, object())


class PropertyTests(SynchronousTestCase):
    @REPEATABLE
    @given(JSON, st.booleans(), st.sampled_from([None, 1]))
    def test_round_trip(self, value: Any, ascii_only: bool, indent: int | None) -> None:
        """Whatever JSON says comes out of an edit with the same meaning, and unedited byte for byte."""
        body = json.dumps({"top": value}, ensure_ascii=ascii_only, indent=indent).encode()
        try:
            document = Document.parse(body)
        except BadDocumentError:
            self.assertFalse(unambiguous(value))
            return
        self.assertEqual(document.encode(), body)
        edited = document.with_value(("added",), "x").encode()
        self.assertEqual(json.loads(edited), {"top": value, "added": "x"})
        self.assertEqual(Document.parse(edited).get("top"), document.get("top"))

    @REPEATABLE
    @given(st.binary(max_size=40) | st.text('{}[]":,\\u0aA1. eE-ntf\u017f', max_size=40).map(str.encode))
    def test_any_bytes(self, body: bytes) -> None:
        """Bytes are a document or a refusal, never another failure."""
        try:
            self.assertEqual(Document.parse(body).encode(), body)
        except BadDocumentError as error:
            self.assertEqual(error.status, 400)
