"""What searches found, told from the record files alone: a page of HTML with its pictures, a table in the terminal.

``collect`` reads and groups the records, ``analysis`` and ``forest`` compute, ``trials`` and ``bars`` draw, ``page``
and ``summary`` write. The modules that import matplotlib or scikit-learn are imported by the command alone.
"""
