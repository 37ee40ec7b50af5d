"""``python -m benchmarks.gpu DIR``: see ``check``."""

import sys

from benchmarks.gpu.check import main

sys.exit(main())
