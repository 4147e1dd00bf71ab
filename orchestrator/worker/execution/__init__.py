"""One attempt of a message, where the pool runs it."""
