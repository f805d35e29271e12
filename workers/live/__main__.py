"""`python -m workers.live`: the live worker's process, from settings to signals."""

import logging
import signal
import threading

import torch

from backend import logs
from backend.db.session import create_engine, session_factory, transaction
from backend.services import inference, jobs
from backend.settings import Settings
from workers.live.worker import LiveWorker

_logger = logging.getLogger(__name__)


def main() -> None:
    """Answer until told to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    settings = Settings()
    logs.configure(settings.log_level)
    torch.set_num_threads(settings.threads or 1)
    engine = create_engine(settings.database_url)
    worker = LiveWorker(settings, session_factory(engine), inference.connect(settings))
    reporter = threading.Thread(target=_report, args=(worker, settings, stop), daemon=True)
    reporter.start()
    try:
        worker.run(stop)
    finally:
        stop.set()
        reporter.join(settings.heartbeat_s)
        with transaction(worker.sessions) as session:
            jobs.forget_worker(session, worker.name)
        engine.dispose()


def _report(worker: LiveWorker, settings: Settings, stop: threading.Event) -> None:
    """Say we live, every few seconds."""
    while True:
        try:
            with transaction(worker.sessions) as session:
                jobs.report_worker(
                    session, worker.name, kind=inference.WORKER_KIND, device=str(worker.residents.device),
                    doing=worker.doing,
                )  # fmt: skip
        except Exception:
            _logger.warning("report.failed", exc_info=True)
        if stop.wait(settings.heartbeat_s):
            return


if __name__ == "__main__":
    main()
