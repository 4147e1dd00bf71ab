"""Messages in a worker's main process: how each is begun and settled."""
