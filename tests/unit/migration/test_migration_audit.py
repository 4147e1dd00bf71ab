"""Which calls are unsupervised sends or endless waits, and which only look like it."""

from __future__ import annotations

from textwrap import dedent

import pytest

from orchestrator.migration import (
    Finding,
    FindingKind,
    audit_source,
)

DELAY, APPLY_ASYNC = FindingKind.DELAY, FindingKind.APPLY_ASYNC
SEND_TASK, GET = FindingKind.SEND_TASK, FindingKind.GET_WITHOUT_TIMEOUT


def audit(source: str) -> tuple[Finding, ...]:
    return audit_source(dedent(source), "shop.py")


def kinds(source: str) -> list[FindingKind]:
    return [finding.kind for finding in audit(source)]


def waits(source: str) -> list[int]:
    return [finding.line for finding in audit(source) if finding.kind is GET]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("charge.delay(1)", [DELAY]),
        ("charge.delay()", [DELAY]),
        ("charge . \\\n delay (1)", [DELAY]),
        ("(charge.delay)(1)", [DELAY]),
        ("self.tasks['charge'].delay(1)", [DELAY]),
        ("charge.s(1).delay()", [DELAY]),
        ("charge.apply_async((1,))", [APPLY_ASYNC]),
        ("charge.apply_async(args=[1], kwargs={}, countdown=3)", [APPLY_ASYNC]),
        ("(charge.s(1) | ship.s()).apply_async()", [APPLY_ASYNC]),
        ("group(charge.s(1)).apply_async()", [APPLY_ASYNC]),
        ("app.send_task('charge', (1,))", [SEND_TASK]),
        ("current_app.send_task('charge', args=[1])", [SEND_TASK]),
        ("send_task('charge')", [SEND_TASK]),
        ("a.delay(b.delay(1))", [DELAY, DELAY]),
        ("f'{a.delay()}'", [DELAY]),
        ("async def f():\n    await g(a.delay())", [DELAY]),
        ("def f():\n    def g():\n        a.delay()", [DELAY]),
        ("class C:\n    x = a.delay()\n    def f(self): a.delay()", [DELAY, DELAY]),
        ("@register(a.delay())\ndef f(): ...", [DELAY]),
        ("def f(x=a.delay()) -> b.delay(): ...", [DELAY, DELAY]),
        ("def f(x: a.delay()): ...", [DELAY]),
        ("class C(a.delay(), metaclass=b.delay()): ...", [DELAY, DELAY]),
        ("lambda x=a.delay(): b.delay()", [DELAY, DELAY]),
        ("[a.delay(i) for i in b.delay() if c.delay()]", [DELAY, DELAY, DELAY]),
        ("{a.delay(): b.delay() for _ in x}", [DELAY, DELAY]),
        ("match x:\n    case 1 if a.delay():\n        b.delay()", [DELAY, DELAY]),
        ("try:\n    a.delay()\nexcept* E:\n    b.delay()", [DELAY, DELAY]),
    ],
)
def test_sends(source: str, expected: list[FindingKind]) -> None:
    assert kinds(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\n\n# charge.delay(1)\n",
        "'charge.delay(1)'",
        "delay(1)",
        "apply_async(1)",
        "charge.delay",
        "retry_delay = x.delay_s(1)",
        "def delay(self): ...",
        "def send_task(name): ...",
        "from celery import group",
        "callbacks.append(charge.delay)",
        "pool.apply_async(work, (1, 2))",
        "pool.apply_async(work, [1, 2]).get()",
        "pool.apply_async(work, args=(1,))",
        "pool.apply_async(func=work)",
        "pool.apply_async(lambda: 1)",
        "pool.apply_async(work, callback=done)",
        "pool.apply_async(work, kwds={})",
    ],
)
def test_no_sends(source: str) -> None:
    assert audit(source) == ()


@pytest.mark.parametrize(
    "source",
    [
        "charge.delay(1).get()",
        "charge.apply_async((1,)).get()",
        "send_task('charge').get()",
        "app.send_task('charge').get()",
        "AsyncResult(task_id).get()",
        "app.AsyncResult(task_id).get(propagate=False)",
        "celery.result.AsyncResult(task_id).get()",
        "group(a.s(), b.s())().get()",
        "celery.group(a.s())().get()",
        "canvas.chain(a.s(), b.s())().get()",
        "chord(header)(body).get()",
        "(chord)(header)  (body).get()",
        "(group(a)  # both\n ()).get()",
        "ResultSet(results).join()",
        "GroupResult(i, results).join_native()",
        "group(a.s()).apply_async().join()",
        "charge.delay(1).get(timeout=None)",
        "charge.delay(1).get(None)",
        "(r := charge.delay(1)).get()",
        "(a if x else b.delay()).get()",
        "(cached or b.delay()).get()",
        "r = charge.delay(1)\nr.get()",
        "r: AsyncResult = charge.delay(1)\nr.get()",
        "q = r = charge.delay(1)\nr.get()",
        "if r := charge.delay(1):\n    r.get()",
        "self.r = charge.delay(1)\nself.r.get()",
        "self.a.b = charge.delay(1)\nself.a.b.get()",
        "r = AsyncResult(i)\nr.get()",
        "r = group(a)()\nr.join()",
        "r = charge.delay(1) if x else None\nif r: r.get()",
        "r = None\nif x:\n    r = charge.delay(1)\nr.get()",
        "r = charge.delay(1)\nr = r.get()",
        "r = charge.delay(1)\nr: str = r.get()",
        "r = charge.delay(1)\n[r.get() for _ in x]",
        "r = charge.delay(1)\n{r.get(): [r2 for r2 in x]}",
        "[r.get() for x in y if (r := charge.delay(x))]",
        "[0 for x in y if (r := charge.delay(x))]\nr.get()",
        "(r or cached).get()\nr = charge.delay(1)",
        "for x in y:\n    if r: r.get()\n    r = charge.delay(x)",
        "r = charge.delay(1)\nr.get()\nr = {}",
        "r = {}\nr = charge.delay(1)\nr.get()",
        "r = charge.delay(1)\nr, s = r.get(), 1",
        "r = charge.delay(1)\n[s, (*r, t)] = r.get()",
        "async def f():\n    r = charge.delay(1)\n    return r.get()",
        "class C:\n    r = charge.delay(1)\n    x = r.get()",
    ],
)
def test_endless_waits(source: str) -> None:
    assert len(waits(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "charge.delay(1).get(timeout=5)",
        "charge.delay(1).get(5)",
        "charge.delay(1).get(timeout=limit)",
        "charge.delay(1).get(*arguments)",
        "charge.delay(1).get(**options)",
        "charge.delay(1).get",
        "charge.delay(1).result",
        "ResultSet(results).join(timeout=5)",
        "r = charge.delay(1)\nr.get(timeout=5)",
        "{}.get('x')",
        "d.get()",
        "os.environ.get('x')",
        "queue.get(timeout=1)",
        "queue.get()",
        "requests.get(url)",
        "client.get(url).get()",
        "', '.join(names)",
        "match.group(1)().get()",
        "itertools.chain(a, b).get()",
        "group(a).get()",
        "x = charge.delay\nx.get()",
        "r = charge.delay(1).get(timeout=1)\nr.get('key')\nr.get()",
        # Something else has taken the name.
        "r = charge.delay(1)\nr = queue\nr.get()",
        "r = charge.delay(1)\nr, s = x\nr.get()",
        "r = charge.delay(1)\nfor r in x:\n    r.get()",
        "r = charge.delay(1)\nwith x as r:\n    r.get()",
        "r = charge.delay(1)\n[r.get() for r in queues]",
        "self.r = charge.delay(1)\nself.r = queue\nself.r.get()",
        # Other scopes, other names.
        "r = charge.delay(1)\ndef f():\n    r.get()",
        "r = charge.delay(1)\nf = lambda: r.get()",
        "def f():\n    r = charge.delay(1)\ndef g():\n    r.get()",
        "def f():\n    r = charge.delay(1)\nr.get()",
        "async def f():\n    r = charge.delay(1)\n    async def g():\n        r.get()",
        "class C:\n    r = charge.delay(1)\n    def f(self):\n        r.get()",
        "class C:\n    def f(self): self.r = charge.delay(1)\n    def g(self): self.r.get()",
        "def f(r):\n    r.get()\n    r = charge.delay(1)",
        "def f(*r, **s):\n    r.get()\n    s.get()\n    r = s = charge.delay(1)",
        "self.r = charge.delay(1)\nother.r.get()",
        "x[0] = charge.delay(1)\nx.get()",
        "r = charge.delay(1)\nr[0].get()",
    ],
)
def test_no_endless_waits(source: str) -> None:
    assert waits(source) == []


@pytest.mark.parametrize(
    ("source", "confidence"),
    [
        ("import celery\nx.delay()", "certain"),
        ("import celery.canvas as c\nx.delay()", "certain"),
        ("from celery import shared_task\nx.delay()", "certain"),
        ("from celery.result import AsyncResult\nAsyncResult(i).get()", "certain"),
        ("from .celery import app\nx.delay()", "certain"),
        ("from shop.celery_app import app\nx.delay()", "certain"),
        ("from . import celery_app\nx.delay()", "certain"),
        ("def f():\n    import celery\nx.delay()", "certain"),
        ("@app.task\ndef charge(): ...\ncharge.delay()", "certain"),
        ("@app.task(bind=True)\ndef charge(self): ...\ncharge.delay()", "certain"),
        ("@shared_task\ndef charge(): ...\ncharge.s().delay()", "certain"),
        ("@shop.shared_task()\ndef charge(): ...\ncharge.s().set(x=1).apply_async()", "certain"),
        ("@task\nasync def charge(): ...\ncharge.delay()", "certain"),
        ("from tasks import charge\ncharge.delay()", "certain"),
        ("from .tasks import charge as c\nc.delay()", "certain"),
        ("from shop.tasks import charge\nr = charge.delay()", "certain"),
        ("from shop import tasks\ntasks.charge.delay()", "certain"),
        ("import shop.tasks\nshop.tasks.charge.delay()", "certain"),
        ("import shop.tasks as t\nt.charge.delay()", "certain"),
        ("from celeryish import x\nx.delay()", "possible"),
        ("from tasks import charge\nx.delay()", "possible"),
        ("from tasks import charge as c\ncharge.delay()", "possible"),
        ("import shop.tasks\nshop.clock.delay()", "possible"),
        ("from shop.tasks_old import charge\ncharge.delay()", "possible"),
        ("@app.route\ndef charge(): ...\ncharge.delay()", "possible"),
        ("x.delay()", "possible"),
        ("x[0].delay()", "possible"),
        ("(a | b).delay()", "possible"),
        ("import celery\nself.pool.apply_async(work)", "possible"),
        ("import celery\nThreadPool(4).apply_async(work)", "possible"),
        ("import celery\nsuper().apply_async(args)", "possible"),
    ],
)
def test_confidence(source: str, confidence: str) -> None:
    assert [finding.confidence for finding in audit(source)] == [confidence]


def test_a_wait_is_as_certain_as_what_it_waits_for() -> None:
    source = """
        from shop.tasks import charge
        mine, other = 1, 2
        mine = charge.delay()
        other = x.delay()
        mine.get()
        other.get()
    """
    assert [(f.line, f.confidence) for f in audit(source) if f.kind is GET] == [
        (6, "certain"),
        (7, "possible"),
    ]


@pytest.mark.parametrize(
    ("source", "suggestion"),
    [
        ("charge.delay(1, x=2)", "orchestrator.send(charge.s(...))"),
        ("charge.delay()", "orchestrator.send(charge.s())"),
        ("shop.tasks.charge.delay(1)", "orchestrator.send(shop.tasks.charge.s(...))"),
        ("tasks['charge'].delay(1)", "orchestrator.send(task.s(...))"),
        (f"{'x' * 61}.delay(1)", "orchestrator.send(task.s(...))"),
        ("(shop.\n charge).delay(1)", "orchestrator.send(task.s(...))"),
        ("charge.s(1).delay()", "orchestrator.send(charge.s(1))"),
        ("(a.s() | b.s()).delay()", "orchestrator.send((a.s() | b.s()))"),
        ("group(a.s()).delay()", "orchestrator.send(group(a.s()))"),
        ("group(\n a.s()\n).delay()", "orchestrator.send(signature)"),
        ("charge.apply_async()", "orchestrator.send(charge.s())"),
        ("charge.apply_async((1,))", "orchestrator.send(charge.s(...))"),
        ("charge.apply_async((1,), queue='q')", "orchestrator.send(charge.s(...).set(...))"),
        ("charge.apply_async(queue='q')", "orchestrator.send(charge.s().set(...))"),
        ("charge.s(1).apply_async(queue='q')", "orchestrator.send(charge.s(1).set(...))"),
        ("app.send_task('charge', (1,))", "orchestrator.send(app.signature('charge', ...))"),
        ("self.app.send_task('charge')", "orchestrator.send(self.app.signature('charge'))"),
        ("send_task(name, (1,))", "orchestrator.send(app.signature(name, ...))"),
        ("get_app().send_task(name=n)", "orchestrator.send(app.signature(...))"),
        ("app.send_task(*arguments)", "orchestrator.send(app.signature(...))"),
        ("charge.delay(1).get()", "orchestrator.send(charge.s(...)).wait(timeout_s=...)"),
        ("AsyncResult(i).get()", "AsyncResult(i).get(timeout=...)"),
        ("r = charge.delay(1); r.get()", "r.get(timeout=...)"),
        ("group(a)().join()", "group(a)().join(timeout=...)"),
        ("group(\n a)().join()", "result.join(timeout=...)"),
        ("(a or b.delay()).get()", "result.get(timeout=...)"),
    ],
)
def test_suggestion(source: str, suggestion: str) -> None:
    assert audit(source)[-1].suggestion == suggestion


def test_a_finding_points_at_the_method() -> None:
    source = """\
    if order:
        (
            charge
            .s(1)
            .apply_async(queue="q")
        )
    """
    assert audit(source) == (
        Finding(
            path="shop.py",
            line=5,
            column=10,
            kind=APPLY_ASYNC,
            confidence="possible",
            snippet='.apply_async(queue="q")',
            suggestion="orchestrator.send(signature.set(...))",
        ),
    )


def test_findings_come_in_the_order_of_the_text() -> None:
    source = "b.delay(a.apply_async()).get(); c.delay()\nd.delay()"
    assert [(f.line, f.column, f.kind) for f in audit(source)] == [
        (1, 3, DELAY),
        (1, 11, APPLY_ASYNC),
        (1, 26, GET),
        (1, 35, DELAY),
        (2, 3, DELAY),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_and_columns_are_those_an_editor_shows(line_end: str) -> None:
    source = line_end.join(["x = '\x0c\x1c\u2028'", "é = '𝓐'; charge.delay('ü')"])
    (finding,) = audit_source(source, "shop.py")
    assert (finding.line, finding.column) == (2, 17)
    assert finding.snippet == "é = '𝓐'; charge.delay('ü')"
    assert finding.suggestion == "orchestrator.send(charge.s(...))"


def test_a_byte_order_mark_moves_nothing() -> None:
    (finding,) = audit_source("\ufeffcharge.delay(1)", "shop.py")
    assert (finding.line, finding.column, finding.snippet) == (1, 8, "charge.delay(1)")


def test_a_snippet_is_short() -> None:
    (finding,) = audit(f"charge.delay('{'x' * 500}')")
    assert finding.snippet == f"charge.delay('{'x' * 146}"


@pytest.mark.parametrize(
    "source",
    [
        "charge.delay(1)  # orchestrator: ignore",
        "charge.delay(1)  #orchestrator:ignore   ",
        "charge.delay(1)  # noqa: X1  # orchestrator: ignore",
        "charge.delay(1).get()  # orchestrator: ignore",
        "charge.delay(  # orchestrator: ignore\n    1,\n)",
        "charge.delay(\n    1,\n)  # orchestrator: ignore",
        "(\n    charge\n    .delay(  # orchestrator: ignore\n        1\n    )\n)",
    ],
)
def test_an_ignored_call(source: str) -> None:
    assert audit(source) == ()


@pytest.mark.parametrize(
    "source",
    [
        "charge.delay(1)  # orchestrator: ignored",
        "charge.delay('# orchestrator: ignore')",
        "# orchestrator: ignore\ncharge.delay(1)",
        "charge.delay(1)\n# orchestrator: ignore",
        "ok.delay()  # orchestrator: ignore\ncharge.delay(1)",
        "outer(  # orchestrator: ignore\n    charge.delay(1),\n)",
        "charge.delay(\n    1,  # orchestrator: ignore\n)",
    ],
)
def test_a_call_that_is_not_ignored(source: str) -> None:
    assert kinds(source) == [DELAY]
