"""How the towers learn from pairs."""
