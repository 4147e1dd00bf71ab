"""The ids of deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import islice

import pytest

from orchestrator.sending.messages.agent_messages import new_id, new_ids


@pytest.mark.parametrize("source", [iter(new_id, None), new_ids()], ids=["one by one", "many"])
def test_an_id_is_a_random_uuid_as_others_write_it(source: Iterator[str]) -> None:
    ids = list(islice(source, 200))
    assert len(set(ids)) == 200
    for id_ in ids:
        read = uuid.UUID(id_)
        assert (str(read), read.version, read.variant) == (id_, 4, uuid.RFC_4122)
