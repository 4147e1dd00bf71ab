"""The sender's side: sends and calls, the deliveries that they return, and the ledger that proves that none is lost."""
