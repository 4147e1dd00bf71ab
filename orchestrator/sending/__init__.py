"""The sender's side: one door out (:mod:`.sender`), the delivery it returns, and the ledger that proves nothing is lost."""
