"""Beam ships the package to its workers by `--setup_file ./setup.py`; everything about it is in pyproject.toml."""

import setuptools

setuptools.setup()
