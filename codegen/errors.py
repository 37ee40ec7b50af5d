"""What a person can put right."""

from __future__ import annotations


class CodegenError(ValueError):
    """Input that can't be used: an unknown name, a file that can't be written, a broken record.

    The message is one sentence that names the value; the command line prints it without a traceback.
    """
