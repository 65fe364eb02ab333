"""What holds for all tests."""

from __future__ import annotations

import os

# Models in tests are so small that threads would mostly wait for each other; beside other work, ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
