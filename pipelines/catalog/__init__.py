"""What analysts ask: views and macros over a night's files, and the statements that use them."""
