"""HTML pages and charts that need no network."""
