"""Simulated worlds whose answers are known, all in one place; pure NumPy, no Beam."""
