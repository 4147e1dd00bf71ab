"""A web endpoint that answers 202 at once and the outcome later. Plain WSGI: any server runs ``application``.

    POST   /charges            {"order_id": "o1", "cents": 500}  -> 202, Location: /deliveries/ID
    GET    /deliveries/ID      -> 202 while it is pending, then 200 with its outcome; 404 if nobody knows it
    DELETE /deliveries/ID      -> 200 with what cancelling came to

No process has to remember anything between two requests: the id is enough, whichever process is asked. An id that is
unknown is looked for in every mailbox and among the newest dead letters: let only your users ask, and limit their rate.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any
from uuid import UUID
from wsgiref.simple_server import make_server

from celery import Celery
from pydantic import PositiveInt

from orchestrator import (
    Agent,
    CircuitOpen,
    Delivery,
    InfrastructureError,
    InvalidMessage,
    Message,
    Orchestrator,
    UnknownDelivery,
    handles,
)
from orchestrator.core.deliveries.outcome import to_wire
from orchestrator.core.message import decode

app = Celery("shop", broker=os.environ.get("ORCHESTRATOR_BROKER_URL"), set_as_current=False)
orchestrator = Orchestrator(app)


class Charge(Message):
    order_id: str
    cents: PositiveInt


class Billing(Agent):
    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> dict[str, Any]:
        return {"order_id": message.order_id, "charged": message.cents}


orchestrator.host(Billing)

Answer = tuple[str, dict[str, str], Any]


def charge(body: bytes) -> Answer:
    """Accept a charge."""
    try:
        message = decode(Charge, json.loads(body))
    except (ValueError, InvalidMessage) as error:
        return "400 Bad Request", {}, {"error": str(error)}
    delivery = orchestrator.send("billing", message)
    where = f"/deliveries/{delivery.id}"
    return "202 Accepted", {"Location": where}, {"id": delivery.id, "status": "pending", "see": where}


def known(delivery_id: str) -> Delivery:
    """The delivery with that id. What is no id is refused before Redis is asked."""
    try:
        return orchestrator.delivery(str(UUID(delivery_id)))
    except ValueError:
        raise UnknownDelivery(delivery_id) from None


def look(delivery_id: str) -> Answer:
    """Where a charge is, and its outcome if it has one."""
    delivery = known(delivery_id)
    outcome = delivery.outcome()
    if outcome is None:
        return "202 Accepted", {"Retry-After": "1"}, {"id": delivery.id, "status": delivery.status()}
    return "200 OK", {}, {"id": delivery.id, **to_wire(outcome)}


def cancel(delivery_id: str) -> Answer:
    """Have a charge not run."""
    return "200 OK", {}, {"id": delivery_id, "cancelling": known(delivery_id).cancel()}


def answer(method: str, path: str, body: bytes) -> Answer:
    """Route a request."""
    place, _, delivery_id = path.strip("/").partition("/")
    try:
        match method, place, delivery_id:
            case "POST", "charges", "":
                return charge(body)
            case "GET", "deliveries", str(id_) if id_:
                return look(id_)
            case "DELETE", "deliveries", str(id_) if id_:
                return cancel(id_)
            case _:
                return "404 Not Found", {}, {"error": f"no {method} {path}"}
    except UnknownDelivery as error:
        return "404 Not Found", {}, {"error": str(error)}
    except InfrastructureError as error:
        # Redis is away, the mailbox is full, or the agent's circuit breaker is open.
        after_s = error.retry_after_s if isinstance(error, CircuitOpen) else 1.0
        return "503 Service Unavailable", {"Retry-After": str(ceil(after_s))}, {"error": str(error)}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status, headers, document = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], body)
    start_response(status, [("Content-Type", "application/json"), *headers.items()])
    return [json.dumps(document).encode()]


if __name__ == "__main__":
    with make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), application) as server:
        server.serve_forever()
