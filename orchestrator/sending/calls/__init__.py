"""Calls and asks: requests whose sender gets a reply."""
