"""The sender's side: one door out, the delivery it returns, and the ledger that proves nothing is lost."""
