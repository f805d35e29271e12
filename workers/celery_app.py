"""The dashboard worker's process: `python -m workers.celery_app`. One process per GPU, or one for the CPU.

A solo pool: torch and forked pools do not go together, and shards are long. A daemon thread reports that the worker
lives and sends again what was lost (every worker does; the rows keep that from doing work twice).
"""

import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

from celery import signals
from sqlalchemy.orm import Session, sessionmaker

from backend import broker, logs
from backend.db.session import create_engine, session_factory, transaction
from backend.services import jobs
from backend.settings import Settings
from workers import runtime, tasks

_logger = logging.getLogger(__name__)


def main() -> None:
    """Run a worker until it is told to stop."""
    settings = Settings()
    os.nice(settings.nice)
    logs.configure(settings.log_level)
    logging.getLogger("celery").setLevel(logging.WARNING)
    sessions = session_factory(create_engine(settings.database_url))
    app = broker.celery_app(settings)
    worker = tasks.Worker(settings, sessions, app, f"{socket.gethostname()}:{os.getpid()}")

    @app.task(name=broker.TASK)
    def run_shard() -> None:
        worker.run()

    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(worker, settings, sessions, stop), daemon=True)

    @signals.worker_ready.connect(weak=False)
    def start(**_: Any) -> None:
        watch.start()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        app.worker_main(["worker", "--pool=solo", "--without-gossip", "--without-mingle", "--loglevel=WARNING"])
    finally:
        stop.set()
        with transaction(sessions) as session:
            jobs.forget_worker(session, worker.name)


def _watch(worker: tasks.Worker, settings: Settings, sessions: sessionmaker[Session], stop: threading.Event) -> None:
    """Say we live, and put right what others left, every few seconds."""
    device = str(runtime.pick_device(settings.device))
    while True:
        try:
            with transaction(sessions) as session:
                jobs.report_worker(session, worker.name, kind="dashboards", device=device, doing=worker.doing)
            worker.sweep()
        except Exception:
            _logger.warning("sweep.failed", exc_info=True)
        if stop.wait(settings.sweep_s):
            return


if __name__ == "__main__":
    main()
