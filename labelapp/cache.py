"""The cache: it only counts requests for the throttles, so it may forget, but may not stand in anybody's way."""

import logging
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
