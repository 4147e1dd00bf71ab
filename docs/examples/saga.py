"""A trip is booked step by step: each step is a call with a fallback, and what cannot be finished is taken back.

What keeps it whole when processes die: the handler of `Book` is supervised, so it runs again after a death; `Reserve`
and `Release` may run twice for one trip; the payment, of which a copy may not run after a death, is `on_death="fail"`,
and its fallback is sent by Redis. `Pay` has to find a payment that there is, as its fallback may be the second try.

Until the payment any error takes the trip back: an agent that is down, an open breaker and a full mailbox as much as a
refusal. From the payment on the trip only goes on: an error fails the attempt, and the next one finds what there is.
"""

from __future__ import annotations

from typing import Any

from orchestrator import (
    Agent,
    Ask,
    Context,
    FallbackDelivery,
    Message,
    Send,
    Stale,
    Value,
    WhenOpen,
    handles,
)


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
            hotel = call("hotels", Reserve(trip=trip), timeout_s=2, fallback=[Ask("hostels")])
            flight = call("flights", Reserve(trip=trip), timeout_s=2)
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no trip without both
            # Supervised, so that it is done whatever becomes of this worker meanwhile; an open breaker only delays it.
            for agent in ("hotels", "hostels", "flights", "payments"):
                send(agent, Release(trip=trip), when_open=WhenOpen.QUEUE)
            return {"booked": False, "why": str(error)}
        # An old forecast, or none, will do.
        forecast = call("weather", Weather(trip=trip), timeout_s=0.5, fallback=[Stale(max_age_s=3600), Value(None)])
        # If it does not work at once it is paid later, although this worker may have died.
        later = Send(durable=True, when_open=WhenOpen.QUEUE)
        paid = call("payments", Pay(trip=trip), timeout_s=5, on_death="fail", fallback=[later])
        if isinstance(paid, FallbackDelivery):
            paid = "later"
        return {"booked": True, "hotel": hotel, "flight": flight, "forecast": forecast, "paid": paid}
