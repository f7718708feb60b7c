"""The feed's order: relevance, diversity and soft-spacing classes."""
