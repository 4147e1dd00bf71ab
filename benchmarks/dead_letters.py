"""``make bench-dead-letters``: what it costs to bury, to ask and to send again, with a million letters in the log.

Everything goes through the library's own scripts on one embedded server; the letters are as large as real ones, with a
traceback and metadata. The longest time that any script held Redis is Redis' own figure (``SLOWLOG``).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import redis

from benchmarks.machine import machine
from orchestrator.core.fingerprint import fingerprint
from orchestrator.core.keys import GROUP, Keys, steps_of
from orchestrator.core.supervision import Supervision
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.stream import StreamShelf
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.options import Options
from orchestrator.transport.scripts import sha, source
from orchestrator.transport.store import Store

AGENTS = [f"agent-{number}" for number in range(20)]
ERRORS = ["TimeoutError", "ConnectionError", "ValueError", "KeyError", "InvalidMessage"]
REASONS = ["retries exhausted", "non-retryable error", "timeout"]
STEPS = steps_of((0, 3, 6, 9))

#: More scripts than are run, so that Redis forgets none of the long ones.
_SCRIPTS = 100_000

TRACEBACK = "Traceback (most recent call last):\n" + "".join(
    f'  File "/srv/app/step_{depth}.py", line {depth}, in step_{depth}\n    return step_{depth + 1}(order)\n'
    for depth in range(8)
)


def message(number: int) -> bytes:
    """A supervised message after its last attempt."""
    # Ids as real ones are: Redis' Lua makes hashes of some of a string's bytes, and many alike would be slow.
    known = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest().encode()
    return _messages(AGENTS[number % len(AGENTS)]) % (known, known, known)


@cache
def _messages(agent: str) -> bytes:
    # Encoding a million of them would take longer than burying them.
    wire = Supervision(agent=agent, message="Charge", metadata={"job": "NUMBER"}).to_wire()
    body = json.dumps([[{"order_id": "o1", "cents": 500}], {}, {}]).encode()
    headers = {"lang": "py", "task": f"{agent}.Charge", "id": "NUMBER", "retries": 3, "orc": wire}
    text = json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": agent},
                "delivery_tag": "NUMBER",
            },
        }
    )
    assert "%" not in text
    return text.replace("NUMBER", "%s").encode()


@cache
def why_of(agent: str, error_number: int, reason_number: int) -> tuple[str, str, str, str]:
    """A letter as JSON, its reason, error type and fingerprint."""
    error, reason = ERRORS[error_number], REASONS[reason_number]
    stack = f"{TRACEBACK}{error}: no"
    failure = {"attempt": 4, "type": error, "message": "no", "traceback": stack, "at": "now", "by": "w1"}
    letter = {
        "queue": agent,
        "reason": reason,
        "error": {"type": error, "message": "no"},
        "attempts": 4,
        "failures": [failure],
        "by": "w1",
    }
    return json.dumps(letter), reason, error, fingerprint(error, stack)


class Bench:
    """One server with its letters."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.keys = Keys()
        self.store = Store(self.redis, self.keys, Options(), STEPS, self.redis.connection_pool, url)
        self.log = DeadLetters(StreamShelf(self.store))
        self.redis.script_load(source("bury").decode())

    def fill(self, count: int) -> None:
        """Put letters into the log with the function that buries them, a hundred in a script (that of imports)."""
        for agent in AGENTS:
            self.store.run("declare", [self.keys.queues, self.keys.step(agent, "0")], [agent, "1", GROUP, 0])
        self.redis.script_load(source("import_letters").decode())
        for begin in range(0, count, 100):
            args: list[Any] = [self.keys.root, ""]
            for number in range(begin, min(begin + 100, count)):
                _, _, _, _, _, _, agent, letter, reason, error, group, *_ = self.burial(number, "1-1")
                fields = [message(number), letter, "", agent, agent, "Charge", error, reason, group, "", "1"]
                args += [*fields, f"1-{number + 1}", ""]
            self.redis.evalsha(sha("import_letters"), 0, *args)
            # What was buried came from nowhere. A million of these freed at once would leave holes everywhere in the
            # memory of a server without jemalloc, as the embedded one is.
            self.redis.delete(self.keys.letter_origins)

    def burial(self, number: int, entry: str) -> list[Any]:
        """Keys and arguments of one burial."""
        k, agent = self.keys, AGENTS[number % len(AGENTS)]
        why = [*why_of(agent, number % len(ERRORS), number % len(REASONS)), '{"outcome":"dead"', 1000]
        return [k.step(agent, "0"), k.ledger(agent), "", GROUP, entry, k.root, agent, *why]

    def bury_s(self, count: int) -> float:
        """Burials a second, one after the other, each waited for: one round trip."""
        waiting = []
        for number in range(count):
            stream = self.keys.step(AGENTS[number % len(AGENTS)], "0")
            entry: Any = self.redis.xadd(stream, {"m": message(number)})
            self.redis.xreadgroup(GROUP, "w", {stream: ">"}, count=1)
            waiting.append(self.burial(number, entry.decode()))
        began = time.perf_counter()
        for burial in waiting:
            self.redis.evalsha(sha("bury"), 3, *burial)
        return count / (time.perf_counter() - began)

    def replay_s(self, agents: int) -> tuple[int, float]:
        """Letters a second sent again, by filters that an index answers."""
        began = time.perf_counter()
        sent = sum(self.log.query(agent=agent).retry().sent for agent in AGENTS[:agents])
        return sent, sent / (time.perf_counter() - began)

    def query_ms(self) -> dict[str, float]:
        """Median of each question, in milliseconds."""
        log = self.log
        newest = log.list(1)[0].id
        questions: dict[str, Callable[[], Any]] = {
            "page by agent": lambda: log.query(agent=AGENTS[3], state="open").page(50),
            "page by agent and error": lambda: log.query(agent=AGENTS[3], error=ERRORS[3]).page(50),
            "page by error and reason": lambda: log.query(error=ERRORS[1], reason=REASONS[2]).page(50),
            "page by age": lambda: log.query(agent=AGENTS[3], older_than_s=1).page(50),
            "page from the middle": lambda: log.query(agent=AGENTS[3]).page(50, before=newest),
            "count by agent": lambda: log.query(agent=AGENTS[3]).count(),
            "groups": lambda: log.query().groups(),
        }
        return {name: _median_ms(ask) for name, ask in questions.items()}

    def longest_script_ms(self) -> float:
        """The longest command Redis remembers since it was told to."""
        entries: Any = self.redis.slowlog_get(_SCRIPTS)
        return max((entry["duration"] for entry in entries), default=0) / 1000


def _median_ms(ask: Callable[[], Any]) -> float:
    times = []
    for _ in range(21):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"machine: {machine()}")
    with EmbeddedServer() as server:
        bench = Bench(server.url)
        empty = bench.redis.info("memory")["used_memory"]
        bench.redis.config_set("slowlog-max-len", _SCRIPTS)
        bench.redis.config_set("slowlog-log-slower-than", 5000)
        began = time.perf_counter()
        bench.fill(options.letters)
        bench.redis.slowlog_reset()
        print(f"  {options.letters} letters put in within {time.perf_counter() - began:.0f} s", flush=True)
        each = (bench.redis.info("memory")["used_memory"] - empty) / options.letters
        bare = len(message(1)) + len(bench.burial(1, "1-1")[7])
        print(f"  {each:.0f} bytes a letter, of which {bare} are the message and why it died")
        asked = bench.query_ms()
        for name, ms in asked.items():
            print(f"  {name:<26} {ms:7.2f} ms")
        bury_s = bench.bury_s(5000)
        sent, replay_s = bench.replay_s(3)
        print(f"  {sent} letters sent again; the longest script held Redis {bench.longest_script_ms():.1f} ms")
    slowest = max(ms for name, ms in asked.items() if name.startswith("page"))
    print(
        f"bench-dead-letters: bury_s={bury_s:.0f} replay_s={replay_s:.0f} "
        f"query_ms_1m={slowest:.2f} bytes_per_letter={each:.0f}"
    )


if __name__ == "__main__":
    main()
