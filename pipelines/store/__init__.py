"""A warehouse: its bytes, its records, its tables, and the one step that makes a night visible."""
