"""How the items nearest to a query are found: exactly, in a slice, or by an inverted file."""
