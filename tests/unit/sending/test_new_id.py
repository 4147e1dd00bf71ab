"""The ids of deliveries."""

from __future__ import annotations

import uuid

from orchestrator.sending.agent_messages import new_id


def test_an_id_is_a_random_uuid_as_others_write_it() -> None:
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    for id_ in ids:
        read = uuid.UUID(id_)
        assert (str(read), read.version, read.variant) == (id_, 4, uuid.RFC_4122)
