"""Entry points: parse, validate, build, run, report."""
