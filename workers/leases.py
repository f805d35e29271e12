"""A claim kept alive: a thread renews it and reports progress while the main thread computes.

When the job was cancelled, another worker was first, or the lease was lost, the next report of progress stops the work.
"""

import logging
import threading

from sqlalchemy.orm import Session, sessionmaker

from backend import errors
from backend.db.session import transaction
from backend.services import shards
from backend.settings import Settings

_logger = logging.getLogger(__name__)


class Heartbeat:
    """Renews a claim for the time of a `with`."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], claimed: shards.Claim) -> None:
        self._settings, self._sessions, self._claimed = settings, sessions, claimed
        self._n_done = 0
        self._is_lost = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_over, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def add(self, n: int) -> None:
        """So many units more are done; raises `CancelledError` if the work is no longer wanted."""
        self.at(self._n_done + n)

    def at(self, n: int) -> None:
        """So many units are done in all; raises as `add`."""
        self._n_done = n
        if self._is_lost.is_set():
            raise errors.CancelledError("the shard is no longer wanted.")

    def _renew_until_over(self) -> None:
        while not self._is_over.wait(self._settings.heartbeat_s):
            try:
                with transaction(self._sessions) as session:
                    is_kept = shards.renew(session, self._claimed, lease_s=self._settings.lease_s, n_done=self._n_done)
            except Exception:
                _logger.warning("lease.not_renewed", exc_info=True)
            else:
                if not is_kept:
                    self._is_lost.set()
                    return
