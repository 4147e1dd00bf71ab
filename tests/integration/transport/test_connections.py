"""The ways to a Redis: Unix socket, TLS, users with few rights, key prefixes, several URLs, Sentinel's apart."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu import Connection, Producer, Queue
from redis.exceptions import AuthenticationError

from orchestrator.embedded import EmbeddedServer
from orchestrator.transport import Transport
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from tests.support.bare_broker import TRANSPORT, BareBroker, kombu_connection
from tests.support.eventually import eventually
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.bare"

#: What docs/transport.md says a user needs.
RIGHTS = (
    "~app:orc:* ~app:_kombu.* allchannels +@all -@admin -@dangerous "
    "+info +client|id +client|list +client|setname +client|setinfo"
)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return key, certificate


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"unixsocket": str(tmp_path / "Redis.sock")}) as server:
        yield server


def test_a_user_with_few_rights_over_a_unix_socket_with_a_prefix(server: EmbeddedServer, tmp_path: Path) -> None:
    """One worker for three things, since none of them may get into another's way."""
    admin = BareBroker(server.url, database=3, global_keyprefix="app:")
    rights = RIGHTS.split()
    if admin.redis.info("server")["redis_version"].startswith(("7.0.", "7.1.")):
        rights.remove("+client|setinfo")
    if int(redis.__version__.partition(".")[0]) < 8:
        rights.append("+role")
    admin.redis.execute_command("ACL", "SETUSER", "app", "on", ">se/cret", *rights)
    url = f"redis://app:se%2Fcret@{tmp_path}/Redis.sock/3"
    environment = {
        "ORCHESTRATOR_BROKER_URL": url,
        "BARE_OPTIONS": json.dumps({"global_keyprefix": "app:"}),
        "BARE_RECORD_URL": server.url,
    }
    record = BareBroker(server.url)
    with WorkerProcess(APP, f"{server.url[:-1]}3", prefix="app:", environment=environment) as w:
        admin.send("note", "now", "low", priority=9)
        admin.send("note", "later", countdown=0.2)
        eventually(lambda: set(record.done()) == {"now", "low", "later"}, describe=w.log)
        incarnation = f"app:orc:incarnation:{w.incarnation}"
        eventually(lambda: admin.redis.hget(incarnation, "heart"), describe=w.log)
        replies = admin.app.control.inspect(timeout=20, limit=1).ping()
        assert list(replies.values()) == [{"ok": "pong"}]
        assert "se/cret" not in w.log()
        assert "se%2Fcret" not in w.log()
        w.kill()
        w.start()
        eventually(lambda: admin.redis.exists("app:orc:deaths"), describe=w.log)
        admin.send("note", "again")
        eventually(lambda: "again" in record.done(), describe=w.log)
        denied = [entry["username"] for entry in admin.redis.acl_log() if entry["reason"] != "auth"]
        assert denied == [], admin.redis.acl_log()
        assert w.stop() == 0
    assert [key for key in admin.redis.keys("*") if not key.startswith("app:")] == []
    with pytest.raises(AuthenticationError):
        Connection(url.replace("cret", "crets"), transport=TRANSPORT).connect()
    for each in (admin, record):
        each.close()


def test_tls(server: EmbeddedServer, certificate: tuple[Path, Path]) -> None:
    """The bundled server does not speak TLS; what stands in front of it here does, as in many houses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    broker = BareBroker(server.url)
    with TcpProxy(server.url, tls=context) as proxy:
        url = f"{proxy.url}?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate[1]}"
        environment = {"ORCHESTRATOR_BROKER_URL": url, "BARE_RECORD_URL": server.url}
        with WorkerProcess(APP, server.url, pool="threads", environment=environment) as w:
            with Connection(url, transport=TRANSPORT) as connection:
                assert isinstance(connection.transport, Transport)
            broker.send("note", "encrypted")
            eventually(lambda: broker.done() == {"encrypted": 1}, describe=w.log)
            incarnation = broker.store.keys.incarnation(w.incarnation)
            eventually(lambda: broker.redis.hget(incarnation, "heart"), describe=w.log)
        with pytest.raises(redis.exceptions.ConnectionError):
            # A certificate that nobody vouches for.
            Connection(url.partition("&")[0], transport=TRANSPORT).connect()
    broker.close()


def test_the_second_url_is_used_when_the_first_does_not_answer(redis_url: str) -> None:
    with kombu_connection(f"redis://127.0.0.1:1/0;{redis_url}") as connection:
        connection.ensure_connection(max_retries=3, interval_start=0)
        channel = connection.channel()
        queue = Queue("second", routing_key="second")(channel)
        queue.declare()
        Producer(channel).publish("x", exchange="", routing_key="second")
        assert queue.get(no_ack=True).payload == "x"
        with redis.Redis.from_url(redis_url) as client:
            assert client.hget("orc:ledger:second", "accepted") == b"1"
    PROCESS_INCARNATIONS.leave_all()


def test_two_apps_with_prefixes_share_a_server_and_nothing_else(redis_url: str) -> None:
    with (
        kombu_connection(redis_url, global_keyprefix="a:") as a,
        kombu_connection(redis_url, global_keyprefix="b:") as b,
    ):
        queues = {each: Queue("shared", routing_key="shared")(each.channel()) for each in (a, b)}
        for each, queue in queues.items():
            queue.declare()
            Producer(each.default_channel).publish(each.transport_options, exchange="", routing_key="shared")
        for each, queue in queues.items():
            message = queue.get()
            assert message.payload == each.transport_options
            message.ack()
            assert queue.get() is None
    PROCESS_INCARNATIONS.leave_all()
