"""Every test run is the same run: hypothesis does not draw anew unless asked to."""

import os
from pathlib import Path

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("search", deadline=None, max_examples=300)
settings.load_profile("fixed")

# numba's cache is safe for readers, but two writers of one kernel's index can cross: processes that
# compile at the same time keep caches of their own. Set before numba is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    _caches = Path(__file__).parents[1] / "build" / "numba"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_caches / os.environ["PYTEST_XDIST_WORKER"]))
