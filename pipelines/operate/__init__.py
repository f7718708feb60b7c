"""What an operator asks before, during and after a night; nothing here changes a row."""
