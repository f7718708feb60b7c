"""`queryloop export`: a night's weights, queries and feed for a serving system."""
