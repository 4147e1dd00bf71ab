"""Checks of words and prose that ``make lint`` runs; no tests of behaviour."""
