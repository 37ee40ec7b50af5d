"""Several CUDA sources as one: nvcc reads CUDA's headers once, which takes it longer than to compile a small kernel."""

import re
from collections import defaultdict

# What follows is a source's own: functions for single instructions, kernels, launchers.
_OWN = re.compile(r'^(?:extern "C"|__forceinline__ __device__ )', re.MULTILINE)


def parts(text):
    """What a source begins with, but for the comment that names it, and its own part."""
    start = _OWN.search(text).start()
    return text[text.index("\n") : start], text[start:]


def together(texts):
    """Sources, one for all that begin alike: [(text, which of ``texts`` it has)]."""
    alike = defaultdict(list)
    for i, text in enumerate(texts):
        alike[parts(text)[0]].append(i)
    found = []
    for head, which in alike.items():
        own = [f"namespace part{i} {{\n{parts(texts[i])[1]}}}\n" for i in which]
        found.append((head + "".join(own), which))
    return found
