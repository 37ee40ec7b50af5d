"""Benchmarks of tvmops against its peers: `python -m benchmarks --help`."""
