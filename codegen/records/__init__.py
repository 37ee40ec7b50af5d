"""What was learned: trials as JSON lines. ``store`` reads and writes them, ``data`` holds the shipped ones."""

from pathlib import Path

SHIPPED = Path(__file__).resolve().parent / "data"
