"""The cache: it only counts requests for the throttles, so it may forget, but may not stand in anybody's way."""

import logging
from functools import cached_property
from typing import Any

import redis
from django.core.cache.backends.redis import RedisCache

logger = logging.getLogger(__name__)


class ForgetfulCache(RedisCache):
    """Redis as a cache; while the server is away, nothing is found and nothing kept."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The value, or `default` also while the server is away."""
        try:
            return super().get(key, default, version)
        except redis.RedisError as error:
            logger.warning("the cache is away: %s", error)
            return default

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the value, if the server is there."""
        try:
            super().set(key, value, *args, **kwargs)
        except redis.RedisError as error:
            logger.warning("the cache is away: %s", error)

    def count(self, key: str, seconds: int) -> int:
        """Count one more under the key, from 1 on, and forget it after so many seconds."""
        try:
            both = self._client.pipeline(transaction=False)
            name = self.make_and_validate_key(key)
            both.incr(name)
            both.expire(name, seconds)
            return int(both.execute()[0])
        except redis.RedisError as error:
            logger.warning("the cache is away: %s", error)
            return 1

    @cached_property
    def _client(self) -> redis.Redis:
        client: redis.Redis = self._cache.get_client(write=True)
        return client
