"""How often one person may ask: a count of the present window, one question to the cache each."""

import time

from django.core.cache import cache
from rest_framework.request import Request
from rest_framework.throttling import ScopedRateThrottle
from rest_framework.views import APIView


class WindowThrottle(ScopedRateThrottle):
    """Only where a view names a ``throttle_scope``. Windows begin at multiples of their length."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Whether this one is still within the rate; counts it."""
        self.scope = getattr(view, self.scope_attr, None)
        if not self.scope:
            return True
        self.num_requests, self.duration = self.parse_rate(self.get_rate())
        if self.num_requests is None or self.duration is None:
            return True
        window = int(time.time() // self.duration)
        counted: int = cache.count(  # type: ignore[attr-defined]  # of labelapp.cache
            f"{self.get_cache_key(request, view)}_{window}", self.duration
        )
        return counted <= self.num_requests

    def wait(self) -> float:
        """Seconds until the next window."""
        return float(self.duration or 0) - time.time() % (self.duration or 1)
