"""The two towers, as they are trained, stored and served."""
