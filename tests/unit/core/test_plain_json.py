"""JSON is read and written by a quicker parser, which must say the same as Python's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings

from orchestrator.transport.mailbox_entry import MalformedEntry, decode, plain_loads
from orchestrator.transport.settling.settler import _encode
from tests.support.json_data import json_data


@settings(deadline=None)
@given(json_data)
def test_what_is_read_is_what_pythons_own_reads(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, separators=(",", ":"), indent=1)):
        # Half a surrogate pair is refused, and read by Python's own.
        with contextlib.suppress(ValueError):
            assert repr(plain_loads(text.encode())) == repr(json.loads(text))


@settings(deadline=None)
@given(json_data)
def test_what_is_written_is_read_as_the_same(value: Any) -> None:
    assert repr(json.loads(_encode({"result": value}))) == repr(json.loads(json.dumps({"result": value})))


@pytest.mark.parametrize("text", ['"\\ud800"', "[" * 250 + "]" * 250, "1e400", "-0.0", "NaN", "9" * 40])
def test_an_entry_that_only_pythons_own_can_read_is_read(text: str) -> None:
    raw = f' {{"properties": {{}}, "body": "", "headers": {{"odd": {text}}}}}\n'.encode()
    read = decode(raw, tag="1-0@s", queue="q", redelivered=False)
    assert repr(read["headers"]["odd"]) == repr(json.loads(text))


@pytest.mark.parametrize("raw", [b"", b"{", b"[1][2]", b'{"a":1,}', b'"\xff"', b"nul"])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="line 1"):
        plain_loads(raw)
    with pytest.raises(MalformedEntry):
        decode(raw, tag="1-0@s", queue="q", redelivered=False)
