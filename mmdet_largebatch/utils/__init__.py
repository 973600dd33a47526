"""Helpers that the other packages share."""
