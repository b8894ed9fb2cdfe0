"""What may be written down of a request without secrets: its target, the edits of its body, and its client's words.

Layer: plug-ins' tools.

What counts as a secret is taken from the engine's API: environment values, build arguments, commands, credentials,
data of secrets and configs, keys and tokens of a swarm, options of drivers (a CIFS password, a log server's token).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote_plus

from docker_tracker.engine.document import MISSING, Change, Number, fold

MASK: Final = "***"

# Keys of JSON bodies, folded: whatever stands under one is masked.
_SECRET_KEYS: Final = frozenset(
    (
        *("env", "cmd", "entrypoint", "args", "data", "password", "auth", "identitytoken", "registrytoken"),
        *("unlockkey", "jointoken", "jointokens", "signingcakey", "options", "driveropts", "buildargs", "test"),
    )
)
# LogConfig.Config holds credentials of log servers; Config is no secret elsewhere.
_SECRET_PAIR: Final = ("logconfig", "config")
# Operations whose bodies are secret as a whole.
_SECRET_BODIES: Final = frozenset(
    ("auth", "plugin_set", "swarm_init", "swarm_join", "swarm_update", "swarm_unlock", "secret_create", "config_create")
)
_BUILDS: Final = "grpc"
# Options of BuildKit's frontends and exporters; what is in others may be a build argument, or a URL with a token.
_PLAIN_OPTIONS: Final = re.compile(r"label:|(?:cgroup-parent|target|platform|name|push|no-cache|filename)$")
_OPTIONS: Final = "attributes"
_URLS: Final = frozenset(("remote", "fromSrc"))
_SECRET_PARAMETER: Final = re.compile(r"auth(?!or)|pass(?:w|phrase|$)|secret|token|cred|api[_-]?key", re.IGNORECASE)
_NAMED_VALUE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.]{0,200})=", re.ASCII)
_USER_INFORMATION: Final = re.compile(r"(://|^)[^/?#]*@")
# buildkit: ``executor/runcexecutor/executor.go``, a Go string; and URLs.
# Looked for at the start of a word only, or a long word would cost the square of its length.
_IN_MESSAGES: Final = re.compile(r"""(process ")(?:[^"\\]|\\.)*(?:"|$)|\b\w+://[^\s"'`]+""", re.DOTALL)
_USER_OF_URL: Final = re.compile(r"(://)[^/?#]{1,1000}@")
_HEADER: Final = re.compile(r"((?:authorization|x-registry-(?:auth|config)):).+", re.IGNORECASE)
_TEXT: Final = re.compile(r"[\s\"']")  # in a word of a command line: a script, or JSON
_PASSWORD: Final = "-p"  # of a log-in; elsewhere a port
_ENVIRONMENT_LINE: Final = re.compile(
    r"^([^\S\n]*(?:ENV|ARG|CMD|ENTRYPOINT|RUN|HEALTHCHECK|ONBUILD)\b).*$", re.I | re.M | re.S
)


def redact_target(target: str) -> str:
    """Return a request's target with what is secret in it masked; the rest stays as it was sent.

    Takes any text, also a query that the engine would refuse.
    """
    path, mark, query = target.partition("?")
    if path.startswith("/") and not query:
        return target
    if not path.startswith("/"):  # the absolute form may have a user's name and password
        path = _USER_INFORMATION.sub(rf"\1{MASK}@", path)
    return path + mark + "".join(map(_redact_parameter, re.split("([&;])", query)))


def _redact_parameter(part: str) -> str:
    name, equals, value = part.partition("=")
    if not equals:
        return part
    plain_name, plain = unquote_plus(name), unquote_plus(value)
    if plain_name == "buildargs":
        masked = _redact_build_arguments(plain)
    elif plain_name in _URLS:
        masked = redact_url(plain)
    elif plain_name == "changes":
        masked = _ENVIRONMENT_LINE.sub(rf"\1 {MASK}", plain)
    elif _SECRET_PARAMETER.search(plain_name):
        masked = MASK
    else:
        return part
    return part if masked == plain else f"{name}={quote(masked, safe='*:/@{}[],')}"


def _redact_build_arguments(text: str) -> str:
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return MASK
    if not isinstance(arguments, dict):
        return MASK
    return json.dumps(dict.fromkeys(arguments, MASK), separators=(",", ":"))


def redact_url(url: str) -> str:
    """Return a URL without a user's name and password, and without its query, which may be a signature."""
    without_user = _USER_INFORMATION.sub(rf"\1{MASK}@", url)
    return re.sub(r"\?[^#]+", f"?{MASK}", without_user)


def redact_message(message: str) -> str:
    """Return what BuildKit says of a failed build without the command that failed, and without what URLs may hold."""
    return _IN_MESSAGES.sub(lambda found: f'process "{MASK}"' if found[1] else redact_url(found[0]), message)


@lru_cache(maxsize=64)  # a client has the same words for each of its requests
def redact_command(words: tuple[str, ...]) -> str:
    """Return a command line as one text, with what can be secret in it masked, and some that is not.

    That are all values that are given to names (``-e TOKEN=…``, ``--build-arg=TOKEN=…``, ``env TOKEN=…``), what follows
    options whose names sound like it, scripts, JSON, and users of URLs. A secret that nothing tells from other words
    (``mysql -pSECRET``) stays.
    """
    shown: list[str] = []
    login = "login" in words
    is_value = False
    for word in words:
        if is_value:
            shown.append(MASK)
        elif login and word.startswith(_PASSWORD):
            shown.append(word if word == _PASSWORD else _PASSWORD + MASK)
        else:
            shown.append(_redact_word(word))
        is_secret = word.startswith("-") and _SECRET_PARAMETER.search(word) and not word.endswith("-stdin")
        is_value = not is_value and "=" not in word and (bool(is_secret) or (login and word == _PASSWORD))
    return " ".join(shown).strip()


def _redact_word(word: str) -> str:
    option, equals, value = word.partition("=")
    if equals and option.startswith("--") and not _SECRET_PARAMETER.search(option):
        return f"{option}={_redact_value(value)}"
    return _redact_value(word)


def _redact_value(word: str) -> str:
    name, equals, value = word.partition("=")
    if _TEXT.search(name):
        return MASK
    name = _HEADER.sub(rf"\1{MASK}", _USER_OF_URL.sub(rf"\1{MASK}@", name))
    return name + equals + (MASK if value else "")


def redact_changes(changes: tuple[Change, ...], operation: str) -> Iterator[Change]:
    """Yield edits as small as they are, and without what is secret.

    A header's values are masked whatever it is. Where an object was replaced by an object, each key that differs is
    an edit of its own.

    :param operation: Its name in the catalogue: the bodies of some are secret.
    """
    for change in changes:
        if change.path == ("target",):
            yield Change(change.path, redact_target(str(change.old)), redact_target(str(change.new)))
        elif change.path[:1] == ("header",) or _is_secret(change.path, operation):
            yield Change(change.path, _masked(change.old), _masked(change.new))
        else:
            yield from _differences(change.path, change.old, change.new)


def _is_secret(path: tuple[str | int, ...], operation: str) -> bool:
    if operation == _BUILDS:
        return _OPTIONS in path[:-1] and not _PLAIN_OPTIONS.match(str(path[-1]))
    return operation in _SECRET_BODIES and path[:1] != ("Labels",)


def _differences(path: tuple[str | int, ...], old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            before, after = old.get(key, MISSING), new.get(key, MISSING)
            if before != after:
                yield from _differences((*path, key), before, after)
        return
    masked = _under(path)
    yield Change(path, _redact(old, *masked), _redact(new, *masked))


def _under(path: tuple[str | int, ...]) -> tuple[str, bool]:
    """Return the last key of a path, and whether what stands there is secret."""
    last = ""
    for part in path:
        if isinstance(part, str):
            key = fold(part)
            if last == "labels":
                return last, False
            if key in _SECRET_KEYS or (last, key) == _SECRET_PAIR:
                return key, True
            last = key
    return last, False


def _redact(value: Any, key: str, secret: bool) -> Any:
    if value is MISSING:
        return MISSING
    if secret:
        return _named(value) if key == "env" else _masked(value)
    if isinstance(value, dict):
        if key == "labels":
            return {name: _redact(item, "", False) for name, item in value.items()}
        return {name: _redact(item, *_step(key, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_redact(item, key, False) for item in value]
    return value.text if isinstance(value, Number) else value


def _step(key: str, name: str) -> tuple[str, bool]:
    folded = fold(name)
    return folded, folded in _SECRET_KEYS or (key, folded) == _SECRET_PAIR


def _masked(value: Any) -> Any:
    return value if value is MISSING or value is None else MASK


def _named(value: Any) -> Any:
    """Mask the values of an environment, and leave its names."""
    if isinstance(value, list):
        return [_named(item) for item in value]
    match = _NAMED_VALUE.match(value) if isinstance(value, str) else None
    return f"{match[1]}={MASK}" if match else _masked(value)
