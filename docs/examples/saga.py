"""A trip is booked step by step: each step is a call with a fallback, and what cannot be finished is taken back.

What keeps it whole when processes die: the handler of `Book` is supervised, so it runs again after a death; `Reserve`
and `Release` may run twice for one trip; the payment, of which a copy may not run after a death, is `on_death="fail"`,
and its fallback is sent by Redis. `Pay` has to find a payment that there is, as its fallback may be the second try.
"""

from __future__ import annotations

from typing import Any

from orchestrator import (
    Agent,
    Ask,
    Context,
    DeliveryTimeout,
    FallbackDelivery,
    Message,
    Send,
    SendFailed,
    Stale,
    Value,
    handles,
)


class Book(Message):
    """Begins a trip."""

    trip: str


class Reserve(Message):
    """Reserves, or finds the reservation that there is."""

    trip: str


class Release(Message):
    """Takes a reservation back, if there is one."""

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
        # Another agent is as good.
        hotel = call("hotels", Reserve(trip=trip), timeout_s=2, fallback=[Ask("hostels")])
        try:
            flight = call("flights", Reserve(trip=trip), timeout_s=2)
        except (SendFailed, DeliveryTimeout) as error:
            # There is no trip without a flight: the room is released, whatever becomes of this worker meanwhile.
            for agent in ("hotels", "hostels"):
                send(agent, Release(trip=trip))
            return {"booked": False, "why": str(error)}
        # An old forecast, or none, will do.
        forecast = call("weather", Weather(trip=trip), timeout_s=0.5, fallback=[Stale(max_age_s=3600), Value(None)])
        # If it does not work at once it is paid later, although this worker may have died.
        paid = call("payments", Pay(trip=trip), timeout_s=5, on_death="fail", fallback=[Send(durable=True)])
        if isinstance(paid, FallbackDelivery):
            paid = "later"
        return {"booked": True, "hotel": hotel, "flight": flight, "forecast": forecast, "paid": paid}
