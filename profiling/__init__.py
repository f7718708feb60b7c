"""A user's history becomes a few interests (PinnerSage, KDD 2020): step 1 of the night."""

from profiling import compiling  # before anything is compiled

__all__ = ["compiling"]
