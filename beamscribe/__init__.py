"""Captions photo archives in bulk, and accounts for every photo."""
