"""A user's history becomes a few interests (PinnerSage, KDD 2020): step 1 of the night."""
