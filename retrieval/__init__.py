"""Queries to items to a feed: steps 5 and 6 of the night. Imports nothing heavy."""
