"""What a delivery carries, and how it ended."""
