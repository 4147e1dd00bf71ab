"""``make bench-dead-letters``: what it costs to dead-letter, search and replay, with a million letters in the log.

Everything goes through the library's own scripts on one embedded server; the letters are as large as real ones, with a
traceback and metadata, and some have messages of 1 MiB: half of them among the others, half in a row.

``max_block_ms`` is the longest command of the whole run, filling included, by Redis' own figure: ``SLOWLOG`` with a
threshold of 1 ms. It includes the time for which the machine gave the processor to somebody else. Beside it another
client sends PINGs; its longest wait is printed too, but depends on this process' interpreter lock as well.
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
from celery import Celery

from benchmarks.machine import machine
from benchmarks.pings import longest_ms, pings, slowest_of
from orchestrator.core.deliveries.fingerprint import fingerprint
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.keys import GROUP, Keys, levels_of
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.redis.store import RedisDeadLetterStore
from orchestrator.deadletters.store import Row
from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.dead_letters import RetentionPolicy, run_maintenance
from orchestrator.transport.options import Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import sha, source
from orchestrator.transport.store import Store

AGENTS = [f"agent-{number}" for number in range(20)]
ERRORS = ["TimeoutError", "ConnectionError", "ValueError", "KeyError", "InvalidMessage"]
REASONS = ["retries exhausted", "non-retryable error", "timeout"]
LEVELS = levels_of((0, 3, 6, 9))

#: More slow commands than there are, so that Redis forgets none of them.
_SCRIPTS = 100_000

#: Bytes of a large message.
LARGE = 1024 * 1024

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
    # Encoding a million of them would take longer than dead-lettering them.
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


def letter_of(number: int) -> tuple[str, str, str, str, str]:
    """The agent, the letter as JSON, its reason, its error and its fingerprint."""
    agent = AGENTS[number % len(AGENTS)]
    return (agent, *why_of(agent, number % len(ERRORS), number % len(REASONS)))


class Bench:
    """One server with its letters."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.keys = Keys()
        self.store = Store(self.redis, self.keys, Options(), LEVELS, self.redis.connection_pool, url)
        self.log = DeadLetters(RedisDeadLetterStore(self.store))
        self.redis.script_load(source("dead_letter").decode())

    def fill(self, count: int) -> None:
        """Put letters into the log with the function that adds them, a hundred in a script (that of imports)."""
        for agent in AGENTS:
            self.store.run(*commands.declare(self.keys, agent, [self.keys.stream(agent, "0")]))
        for begin in range(0, count, 100):
            letters: list[list[bytes | str]] = []
            for number in range(begin, min(begin + 100, count)):
                agent, letter, reason, error, group = letter_of(number)
                fields: list[bytes | str] = [message(number), letter, "", agent, agent, "Charge", error, reason]
                letters.append([*fields, group, "", "1", f"1-{number + 1}", ""])
            self.store.run(*commands.import_letters(self.keys, letters, audit_id=""))
            # These letters came from no mailbox. A million of them freed at once would leave holes everywhere in the
            # memory of a server without jemalloc, as the embedded one is.
            self.redis.delete(self.keys.letter_origins)

    def fill_large(self, count: int, first: int) -> None:
        """Letters with messages of 1 MiB, one after the other."""
        rows: list[Row] = [("", self.large(first + number), b"") for number in range(count)]
        for begin in range(0, count, 100):
            self.log.store.import_rows(rows[begin : begin + 100], "")
        self.redis.delete(self.keys.letter_origins)

    def large(self, number: int) -> dict[bytes, bytes]:
        """The fields of a letter with a message of 1 MiB."""
        agent, letter, reason, error, group = letter_of(number)
        text = message(number).decode().replace('"body": "', '"body": "' + "eHh4" * (LARGE // 4))
        names = (b"m", b"letter", b"q", b"a", b"n", b"e", b"y", b"g", b"s", b"o")
        values = (text, letter, agent, agent, "Charge", error, reason, group, "1", f"1-{number + 1}")
        return dict(zip(names, (value.encode() for value in values), strict=True))

    def acts(self) -> dict[str, float]:
        """Seconds of what else is done with many letters."""
        log = self.log
        replayed = AGENTS[0]
        channel = Celery("bench", broker=self.store.url, set_as_current=False)
        channel.conf.broker_transport = "orchestrator.transport:Transport"

        def purge_mailbox() -> None:
            with channel.connection_for_write() as connection:
                connection.default_channel.queue_purge(replayed)

        done: dict[str, Callable[[], Any]] = {
            "count by age": lambda: log.query(older_than_s=1).count(),
            "plan automatic retries": lambda: run_maintenance(
                log, RetentionPolicy(ttl_s=1e9, max_count=10**9, auto_replays=1), budget_s=10
            ),
            "park those of an agent": lambda: log.query(agent=AGENTS[5]).park("bench"),
            "unpark them": lambda: log.query(agent=AGENTS[5], state="parked").unpark(),
            "remove those of an agent": lambda: log.query(agent=AGENTS[6]).purge(),
            "purge a mailbox": purge_mailbox,
        }
        return {name: _took_s(act) for name, act in done.items()}

    def dead_letter_s(self, count: int) -> float:
        """Dead-lettered messages a second, one after the other, each waited for: one round trip."""
        waiting = []
        for number in range(count):
            agent, letter, reason, error, group = letter_of(number)
            stream = self.keys.stream(agent, "0")
            entry: Any = self.redis.xadd(stream, {"m": message(number)})
            self.redis.xreadgroup(GROUP, "w", {stream: ">"}, count=1)
            waiting.append(
                commands.dead_letter(
                    self.keys, agent, stream, entry, letter, reason, error, fingerprint=group, ttl_ms=1000
                )
            )
        began = time.perf_counter()
        for script, keys, args in waiting:
            self.redis.evalsha(sha(script), len(keys), *keys, *args)
        return count / (time.perf_counter() - began)

    def replay_s(self, agents: int) -> tuple[int, float]:
        """Letters a second sent again, by filters that an index answers."""
        began = time.perf_counter()
        sent = sum(self.log.query(agent=agent).replay().sent for agent in AGENTS[:agents])
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
        return longest_ms(self.redis)

    def describe_longest(self) -> None:
        """Name the scripts and commands that held Redis longest."""
        for name, ms in slowest_of(self.redis).items():
            print(f"    {name:<26} {ms:7.1f} ms at most")


def _took_s(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


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
    parser.add_argument("--large", type=int, default=500, help="letters with a message of 1 MiB, besides the others")
    options = parser.parse_args()
    print(f"machine: {machine()}")
    with EmbeddedServer() as server, pings(server.url) as waits:
        bench = Bench(server.url)
        empty = bench.redis.info("memory")["used_memory"]
        bench.redis.config_set("slowlog-max-len", _SCRIPTS)
        bench.redis.config_set("slowlog-log-slower-than", 1000)
        began = time.perf_counter()
        spread = 20
        for part in range(spread):
            bench.fill_large(options.large // 2 // spread, part * (options.large // 2 // spread))
            bench.fill(options.letters // spread)
        each = (bench.redis.info("memory")["used_memory"] - empty - options.large // 2 * LARGE) / options.letters
        bench.fill_large(options.large - options.large // 2, options.large // 2)
        print(f"  {options.letters} letters put in within {time.perf_counter() - began:.0f} s", flush=True)
        print(f"  and {options.large} with a message of 1 MiB; the longest script {bench.longest_script_ms():.1f} ms")
        bare = len(message(1)) + len(letter_of(1)[1])
        print(f"  {each:.0f} bytes a letter, of which {bare} are the message and why it died")
        asked = bench.query_ms()
        for name, ms in asked.items():
            print(f"  {name:<26} {ms:7.2f} ms")
        dead_letter_s = bench.dead_letter_s(5000)
        sent, replay_s = bench.replay_s(3)
        print(f"  {sent} letters sent again; the longest script {bench.longest_script_ms():.1f} ms", flush=True)
        for name, took_s in bench.acts().items():
            print(f"  {name:<26} {took_s:7.2f} s; the longest script {bench.longest_script_ms():.1f} ms", flush=True)
        block_ms = bench.longest_script_ms()
        bench.describe_longest()
    print(f"  longest wait of a PING beside it: {max(waits, default=0.0):.1f} ms")
    slowest = max(ms for name, ms in asked.items() if name.startswith("page"))
    print(
        f"bench-dead-letters: dead_letter_s={dead_letter_s:.0f} replay_s={replay_s:.0f} "
        f"query_ms_1m={slowest:.2f} bytes_per_letter={each:.0f} max_block_ms={block_ms:.1f}"
    )


if __name__ == "__main__":
    main()
