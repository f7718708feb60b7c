"""Loop health: what every night says of the loop itself, and when to be alarmed.

views.sql  every figure as a view over the tables of all nights
figures    the same views over one night's own files: the night's record
records    what was measured, beside the night's manifest
alarms     which figures are not what they were, or not what was promised
command    on the terminal
"""
