"""The night on Beam, the warehouse and the command line: the only package that knows Beam."""

import logging


def _says_something(record: logging.LogRecord) -> bool:
    """Beam warns at import, on the root logger, that an optional cloud client is not installed."""
    return "apitools not found" not in record.getMessage()


logging.getLogger().addFilter(_says_something)
