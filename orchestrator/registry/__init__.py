"""The registry: agents, and the incarnations that host them."""
