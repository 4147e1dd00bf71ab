"""What limits an agent's messages: bounds of mailboxes, breakers, bulkheads, concurrency."""
