"""The declaration of agents, and the directory of those that are known."""
