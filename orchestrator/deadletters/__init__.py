"""Dead letters: messages that could not be handled, kept with the reason, ready to be replayed."""
