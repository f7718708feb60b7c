"""Users in buckets on any Beam runner."""
