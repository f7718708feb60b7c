"""Spacing as an operator meets it: the file, its checks, previews, books and pages."""
