"""`queryloop sql` and `queryloop catalog`: what analysts ask, at once."""
