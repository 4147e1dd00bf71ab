"""What a message must pass before it is accepted: bounds, breakers, idempotency keys."""
