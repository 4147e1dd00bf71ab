"""Ballots: proposals on which agents vote, decided by the script that records the last vote needed."""
