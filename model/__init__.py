"""Keras models that caption photos: encoders, decoders, search, training and bundles. Imports no Beam."""
