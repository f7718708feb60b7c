"""The policy lab: which policy earns its keep, shown before it ships."""
