"""Whether a candidate is right, and how fast it is.

A candidate is built by a helper process that has TVM (``build``) and judged in a process of its own that has torch and
tvmops (``child``), so that one that crashes or hangs costs only itself. The two never work at the same time.
"""
