"""What a query earned, and which queries speak tonight: steps 2 to 4 of the night."""
