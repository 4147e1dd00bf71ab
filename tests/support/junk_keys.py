"""The names of all keys in Redis, and what something else may write there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from orchestrator.core.key_types import KEY_TYPES, PARTS, type_of
from orchestrator.core.keys import Keys

#: Neither UTF-8 nor JSON nor a number.
RUBBISH: Final = b"\xff\xfe{"

#: Members of :class:`Keys` that are no keys.
_NO_KEYS: Final = ("root", "schedules_bell", "queue_of_ledger", "prefix")

#: Keys of one name that are overwritten at once.
_MOST: Final = 4

#: In the place of a free text.
_TEXT: Final = "@@"
_NUMBER: Final = 7


def names() -> list[str]:
    """The names of all keys after the root, with ``*`` from the first free text on."""
    keys = Keys()
    made = [_name_of(keys, name, member) for name, member in vars(Keys).items() if not name.startswith("_")]
    by_keys = [name.removeprefix(keys.root) for name in made if name]
    by_scripts = [f"{name}*" if name.endswith(":") else name for name in KEY_TYPES]
    parts = [f"run:*:{part}" for part in PARTS if part != "handled"]
    found = dict.fromkeys([*by_keys, *by_scripts, *parts, "group:*:handled"])
    # What is left out are beginnings of several kinds (letters:DIMENSION:), of which each is in the list.
    return [name for name in found if type_of(keys, f"{keys.root}{name.replace('*', 'x')}")]


def _name_of(keys: Keys, name: str, member: Any) -> str:
    if name in _NO_KEYS:
        return ""
    if isinstance(member, property):
        return str(getattr(keys, name))
    parameters = list(inspect.signature(member).parameters.values())[1:]
    made = str(getattr(keys, name)(*[_NUMBER if one.annotation == "int" else _TEXT for one in parameters]))
    return f"{made.removesuffix(str(_NUMBER)).partition(_TEXT)[0]}*"


def keys_of(client: Any, name: str, marks: Iterable[str]) -> list[str]:
    """Keys of that name: some with a mark in them, else one that there is, else one that could be."""
    if "*" not in name:
        return [f"orc:{name}"]
    beginning, _, end = name.partition("*")
    kind = type_of(Keys(), f"orc:{beginning}x{end}")
    found = sorted(key.decode(errors="replace") for key in client.scan_iter(f"orc:{name}", count=10_000))
    # Not what the library has set aside in an earlier test.
    there = [key for key in found if ":broken:" not in key]
    fitting = [key for key in there if type_of(Keys(), key) == kind and (end or _is_of(beginning, key))]
    marked = [key for mark in marks for key in fitting if mark in key]
    return list(dict.fromkeys(marked))[:_MOST] or fitting[:1] or [f"orc:{beginning}near{end}"]


def _is_of(beginning: str, key: str) -> bool:
    longer = [other for other in KEY_TYPES if other.startswith(beginning) and other != beginning]
    own = key.removeprefix("orc:")
    return not any(own.startswith(other) for other in longer) and not (
        beginning in ("run:", "group:") and own.count(":") > 1
    )


@contextmanager
def other_type_at(client: Any, key: str) -> Iterator[None]:
    """Another type at that key, and afterwards again what was there."""
    kept = f"kept|{key}"
    if client.exists(key):
        client.rename(key, kept)
    if type_of(Keys(), key) == "string":
        client.rpush(key, RUBBISH)
    else:
        client.set(key, RUBBISH)
    try:
        yield
    finally:
        if client.type(key).decode() == type_of(Keys(), key):
            # It was set aside, or overwritten in turn.
            client.delete(kept)
        else:
            client.delete(key)
            if client.exists(kept):
                client.rename(kept, key)


@contextmanager
def rubbish_at(client: Any, key: str) -> Iterator[None]:
    """Rubbish in a key of the type that it should be of; afterwards it is taken out again."""
    undo = _ADD[type_of(Keys(), key)](client, key)
    try:
        yield
    finally:
        undo()


def _in_hash(client: Any, key: str) -> Callable[[], None]:
    before = client.hgetall(key)
    client.hset(key, mapping={**dict.fromkeys(before, RUBBISH), RUBBISH: RUBBISH})

    def undo() -> None:
        client.hdel(key, RUBBISH)
        still = [name for name, value in client.hgetall(key).items() if value == RUBBISH and name in before]
        if still:
            client.hset(key, mapping={name: before[name] for name in still})

    return undo


def _in_zset(client: Any, key: str) -> Callable[[], None]:
    client.zadd(key, {RUBBISH: 1})
    return lambda: client.zrem(key, RUBBISH)


def _in_set(client: Any, key: str) -> Callable[[], None]:
    client.sadd(key, RUBBISH)
    return lambda: client.srem(key, RUBBISH)


def _in_list(client: Any, key: str) -> Callable[[], None]:
    client.lpush(key, RUBBISH)
    return lambda: client.lrem(key, 0, RUBBISH)


def _in_stream(client: Any, key: str) -> Callable[[], None]:
    entry = client.xadd(key, {RUBBISH: RUBBISH})
    return lambda: client.xdel(key, entry)


def _in_string(client: Any, key: str) -> Callable[[], None]:
    before = client.get(key)
    client.set(key, RUBBISH)

    def undo() -> None:
        if client.get(key) == RUBBISH:
            client.delete(key)
            if before is not None:
                client.set(key, before)

    return undo


_ADD: Final = {
    "hash": _in_hash,
    "zset": _in_zset,
    "set": _in_set,
    "list": _in_list,
    "stream": _in_stream,
    "string": _in_string,
}
