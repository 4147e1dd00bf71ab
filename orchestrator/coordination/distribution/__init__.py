"""Items given out to agents, agents found by what they offer, and hierarchies of agents."""
