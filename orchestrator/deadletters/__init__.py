"""Dead letters: what could not be handled, kept with the reason, ready to be sent again."""
