"""Log events: a name and fields, one JSON object a line. Never user text, keys or full paths."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def event(logger: logging.Logger, name: str, **fields: str | float | int | bool | None) -> None:
    """Write one event, such as `shard.finished job_id=3 tokens=262144`."""
    logger.info(name, extra={"fields": fields})


def configure(level: str = "INFO") -> None:
    """Send every log record of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": record.getMessage(), **fields}
        if record.levelno >= logging.WARNING:
            line["level"] = record.levelname
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
