"""The offline stage: describes operators in TE, searches schedules with TVM, and exports kernel packs.

Installed as ``tvmops.codegen``; in the repository it is the folder ``codegen`` and runs as ``python -m codegen``. It
needs ``apache-tvm``; nothing here is imported when a model runs.
"""
