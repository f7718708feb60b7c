"""Every test run is the same run: hypothesis does not draw anew unless asked to."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("search", deadline=None, max_examples=300)
settings.load_profile("fixed")
