"""The dead-letter log of eager mode."""
