"""The agent's side: declare one, host it on a worker, execute its messages, settle them."""
