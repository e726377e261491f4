"""For machines that watch the product: is the process up, and can it do its work?"""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from labelapp.selectors.health import readiness


@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """200: this process answers. Touches nothing else."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when every part is there, 503 otherwise; each part says how it is."""
    parts = readiness()
    ready = all(part.ok for part in parts.values())
    body = {
        "status": "ready" if ready else "not ready",
        "parts": {name: {"ok": part.ok, "detail": part.detail} for name, part in parts.items()},
    }
    return JsonResponse(body, status=200 if ready else 503)
