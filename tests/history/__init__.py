"""Histories of several processes, and a checker of whether they are linearizable."""
