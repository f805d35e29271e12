"""The queue: Celery's configuration, and the one message there is, "a shard waits".

A message only wakes a worker; rows decide what it does. So messages are acknowledged on receipt and never redelivered
by the broker (its visibility timeout cannot be renewed): what a dead worker leaves is sent again by the sweep.
"""

from urllib.parse import urlsplit

import redis
from celery import Celery

from backend import errors
from backend.settings import Settings

TASK = "eyepiece.run_shard"
QUEUE = "dashboards"
MAX_MESSAGES = 256
"""That wait at once: more workers than are idle at one time. Each that ends a shard fills the queue up again."""


def celery_app(settings: Settings) -> Celery:
    """Celery on the settings' queue; results are not kept, rows are."""
    app = Celery("eyepiece", broker=celery_url(settings.redis_url))
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_connect_timeout": 5, "socket_keepalive": True, "retry_on_timeout": True},
    )
    return app


def celery_url(redis_url: str) -> str:
    """Kombu's spelling of a redis-py URL: `unix:///s?db=0` becomes `redis+socket:///s?virtual_host=0`."""
    if not redis_url:
        raise errors.InvalidInputError("no queue is named.", hint="Set EYEPIECE_REDIS_URL, or run `eyepiece up`.")
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parts.query.removeprefix("db=") or "0"
    return f"redis+socket://{parts.path}?virtual_host={database}"


def wake_workers(app: Celery, n: int) -> None:
    """Send messages until `n` wait in the queue, if there are fewer; raises `UnavailableError` if it cannot be reached.

    A lost message is so replaced when its shard is next counted, and none pile up however often that is.
    """
    if n == 0:
        return
    try:
        with app.connection_or_acquire() as connection:
            n_sent = connection.default_channel.client.llen(QUEUE)
        for _ in range(min(n, MAX_MESSAGES) - n_sent):
            app.send_task(TASK, queue=QUEUE, retry=False)
    except (OSError, redis.exceptions.RedisError, app.connection_for_write().connection_errors) as error:
        raise errors.UnavailableError(
            "the queue cannot be reached.", hint="The job is kept and starts when the queue is back."
        ) from error
