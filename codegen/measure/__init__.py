"""Whether a candidate is right, and how fast it is.

Candidates are built by helper processes that have TVM (``builders``, ``build``), and judged by a ``runner``, each in a
process of its own that has torch and tvmops (``local``, ``forkserver``, ``child``), so that one that crashes or hangs
costs only itself. The two never work at the same time.
"""
