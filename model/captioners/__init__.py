"""Captioners: what a worker loads, and gives photos to."""
