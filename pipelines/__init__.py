"""Beam pipelines that caption archives and prepare training data. Imports no TensorFlow at module level."""
