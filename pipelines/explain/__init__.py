"""Why a person saw what they saw: `queryloop explain --user U`.

story      what the tables of one user's bucket say, as plain data   <- start reading here
interests  the interests of that user, as a person would draw them
places     drawn, retrieved, shown, done; why each feed position stands where it stands
words      numbers as sentences
terminal   on the terminal
page       as one HTML page
command    all of it
"""
