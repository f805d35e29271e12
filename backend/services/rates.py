"""How often somebody may do something, counted in Redis, so that it holds over all web processes.

Each key is a bucket that leaks evenly and holds one period's worth (the generic cell rate algorithm, ITU-T I.371): the
key's value is the time at which the bucket will be empty. One script takes from it atomically, by the server's clock.

Where Redis does not answer, everything passes and the log says so. The limit keeps one caller from crowding out others;
it is no lock on a door, and a site that refused everybody while its queue restarts would be worse than no limit.
"""

import logging
import time
from dataclasses import dataclass
from typing import cast

import redis

logger = logging.getLogger(__name__)

REQUESTS_PER_MINUTE = 600
"""With accounts, where the settings name none."""
TIMEOUT_S = 0.25
REST_S = 5.0
"""Redis is not asked again so soon after it did not answer: requests would all wait for it."""
_KEY = "eyepiece:rate:"
_TAKE = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local n, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local step = period / n
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
if empty - now > period - step + 0.01 then
  return {0, 0, math.ceil(empty - now - period + step)}
end
empty = empty + step
redis.call('SET', KEYS[1], string.format('%.3f', empty), 'PX', math.ceil(empty - now))
return {1, math.floor((period - (empty - now)) / step + 1e-6), 0}
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking for one more."""

    is_allowed: bool
    n_left: int | None
    """That could be had at once; None where nobody counted."""
    retry_after_s: int
    """0 if it was allowed."""


PASSED = Taken(True, None, 0)


class Rates:
    """Buckets in one Redis; without a URL nothing is counted."""

    def __init__(self, redis_url: str) -> None:
        """Connects when first asked."""
        self._client = (
            redis.Redis.from_url(
                redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None
            )
            if redis_url
            else None
        )  # fmt: skip
        self._rests_until = 0.0

    def take(self, key: str, n: int, period_s: float) -> Taken:
        """One of `n` in any `period_s` for `key`."""
        if self._client is None or time.monotonic() < self._rests_until:
            return PASSED
        try:
            script = self._client.eval(_TAKE, 1, _KEY + key, str(n), str(round(1000 * period_s)))
        except (OSError, redis.RedisError) as error:
            self._rests_until = time.monotonic() + REST_S
            logger.warning("rates.unavailable", extra={"fields": {"error": type(error).__name__}})
            return PASSED
        is_allowed, n_left, wait_ms = cast("list[int]", script)
        return Taken(bool(is_allowed), n_left, -(-wait_ms // 1000))

    def close(self) -> None:
        """Give its connections back."""
        if self._client is not None:
            self._client.close()
