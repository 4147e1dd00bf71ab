"""The rule of workflows' runs: plans, what an outcome releases, and which agent gets a step."""
