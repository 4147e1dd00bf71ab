"""A trip is booked step by step: each step is a call with a fallback, and what cannot be finished is taken back.

Start workers, as many as you like, of all agents or of some, and book trips:

    export ORCHESTRATOR_BROKER_URL=redis://localhost/0
    celery -A saga worker -c 4
    python saga.py trip-1 trip-2

A worker that serves them all needs two slots at least: the handler of `Book` has one while it calls the others.

What keeps a trip whole when processes die: the handler of `Book` is supervised, so it runs again after a death; the
requests `Reserve`, `Release` and `Pay` may run twice for one trip, and find what there is; the fallback of `Pay` is
sent by Redis.

Until the payment any error takes the trip back: an agent that is down, an open breaker and a full mailbox as much as a
refusal. From the payment on the trip only goes on: an error fails the attempt, and the next one finds what there is.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

from celery import Celery

from orchestrator import (
    Agent,
    Ask,
    Context,
    FallbackDelivery,
    Handled,
    Message,
    Orchestrator,
    Send,
    Stale,
    Value,
    WhenOpen,
    handles,
)

app = Celery("saga", broker=os.environ.get("ORCHESTRATOR_BROKER_URL"), set_as_current=False)
orchestrator = Orchestrator(app)

#: Each agent that keeps something has a database of its own in this directory.
DIRECTORY = Path(os.environ.get("SAGA_DIRECTORY", "."))


class Book(Message):
    """Begins a trip."""

    trip: str


class Reserve(Message):
    """Reserves, or finds the reservation that there is."""

    trip: str


class Release(Message):
    """Takes back what an agent has done for a trip, if anything, and has it refuse what comes later for that trip.

    A request without a reply may still be on its way, and an attempt that was killed may have paid.
    """

    trip: str


class Weather(Message):
    """Asks for a forecast, which is nice to have."""

    trip: str


class Pay(Message):
    """Takes the money."""

    trip: str


class Trips(Agent):
    """The saga."""

    name = "trips"

    @handles(Book, timeout_s=30)
    def book(self, message: Book, context: Context) -> dict[str, Any]:
        """Book hotel and flight, and pay."""
        call, send, trip = context.orchestrator.call, context.orchestrator.send, message.trip
        try:
            # Another agent is as good.
            hotel = call("hotels", Reserve(trip=trip), timeout_s=5, fallback=[Ask("hostels")])
            flight = call("flights", Reserve(trip=trip), timeout_s=5)
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no trip without both
            # Supervised, so that it is done whatever becomes of this worker meanwhile; an open breaker only delays it.
            for agent in ("hotels", "hostels", "flights", "payments"):
                send(agent, Release(trip=trip), when_open=WhenOpen.QUEUE)
            return {"booked": False, "why": str(error)}
        # An old forecast, or none, will do.
        forecast = call("weather", Weather(trip=trip), timeout_s=0.5, fallback=[Stale(max_age_s=3600), Value(None)])
        # If it does not work at once it is paid later, although this worker may have died.
        later = Send(durable=True, when_open=WhenOpen.QUEUE)
        paid = call("payments", Pay(trip=trip), timeout_s=5, fallback=[later])
        if isinstance(paid, FallbackDelivery):
            paid = "later"
        return {"booked": True, "hotel": hotel, "flight": flight, "forecast": forecast, "paid": paid}


class Released(Exception):
    """The trip was taken back."""


class Books(Agent):
    """What an agent has done for trips: once for each, and nothing for one that was taken back."""

    @handles(Release)
    def release(self, message: Release) -> None:
        """Take back what there is, or what comes later."""
        with self.open() as database:
            database.execute(
                "INSERT INTO trips VALUES (?, ?) ON CONFLICT DO UPDATE SET done = NULL", (message.trip, None)
            )

    def enter(self, trip: str, what: str) -> str:
        """Enter what is done for a trip, or find what is entered.

        Raises:
            Released: the trip was taken back.
        """
        with self.open() as database:
            database.execute("INSERT OR IGNORE INTO trips VALUES (?, ?)", (trip, what))
            (done,) = database.execute("SELECT done FROM trips WHERE trip = ?", (trip,)).fetchone()
        if done is None:
            raise Released(trip)
        return str(done)

    def open(self) -> sqlite3.Connection:
        """The database of this agent."""
        database = sqlite3.connect(DIRECTORY / f"{self.name}.db", timeout=30)
        database.execute("CREATE TABLE IF NOT EXISTS trips (trip TEXT PRIMARY KEY, done TEXT)")
        return database


class Hotels(Books):
    """Reserves rooms."""

    name = "hotels"

    @handles(Reserve)
    def reserve(self, message: Reserve) -> str:
        """Reserve a room."""
        return self.enter(message.trip, f"a room of {self.name}")


class Hostels(Hotels):
    """Reserves beds, should there be no room."""

    name = "hostels"


class Flights(Books):
    """Reserves seats."""

    name = "flights"

    @handles(Reserve)
    def reserve(self, message: Reserve) -> str:
        """Reserve a seat, but for trips to nowhere."""
        if message.trip == "nowhere":
            raise ValueError("no flight goes there")
        return self.enter(message.trip, "a seat")


class Forecasts(Agent):
    """Knows the weather."""

    name = "weather"

    @handles(Weather)
    def forecast(self, message: Weather) -> str:
        """It is always the same."""
        return "sunny"


class Payments(Books):
    """Takes money."""

    name = "payments"

    @handles(Pay)
    def pay(self, message: Pay) -> str:
        """Take it once for each trip."""
        return self.enter(message.trip, "paid")


orchestrator.host(Trips, Hotels, Hostels, Flights, Forecasts, Payments)


def main(*trips: str) -> None:
    """Book these trips, and print what has come of each."""
    for trip in trips:
        outcome = orchestrator.send("trips", Book(trip=trip)).wait(timeout_s=120)
        print(trip, outcome.result if isinstance(outcome, Handled) else outcome, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
