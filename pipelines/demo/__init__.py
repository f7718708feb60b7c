"""The loop that anyone can see: `queryloop demo`.

loop       the world meets the nights: serve, land, run the night, again   <- start reading here
measures   engagement rates with intervals over users; one user's story
views      what was found, on the terminal
page       the same as pictures
options    what it can be told
command    all of it, once
"""
