"""Beam pipelines that caption archives and prepare training data. No module imports TensorFlow at its top level."""
