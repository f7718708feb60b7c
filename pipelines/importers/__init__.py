"""Foreign logs become ENGAGEMENTS, ITEMS and IMPRESSIONS; one file per format."""
