"""The command line. One file a group of commands, which add themselves to the application in ``_common``."""

from . import build, measure, plan, report, show, tune
from ._common import app

__all__ = ["app", "build", "measure", "plan", "report", "show", "tune"]
