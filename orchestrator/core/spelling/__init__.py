"""Names that users write: the likeliest spelling of an unknown one, for errors."""
