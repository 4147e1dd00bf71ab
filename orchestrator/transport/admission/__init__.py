"""The admission of messages: bounds, breakers, idempotency keys."""
