"""The rules of calls: asks, replies, hedges, the budget of retries, rings of callers, conversations."""
