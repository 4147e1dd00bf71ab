"""Chaos runs: real workers under load, killed at random, judged by a ledger that is never killed.

``python -m chaos`` runs one. Nothing here is part of the library.
"""
