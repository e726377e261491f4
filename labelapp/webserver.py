"""What gunicorn is told; read as `gunicorn --config python:labelapp.webserver`."""

import gc
from pathlib import Path

from labelapp import settings

bind = f"{settings.LABELAPP_BIND}:{settings.LABELAPP_PORT}"
workers = settings.WEB_WORKERS
worker_class = "gthread"
threads = settings.WEB_THREADS
timeout = 60
graceful_timeout = 8
keepalive = 5
accesslog = "-" if settings.LABELAPP_MODE == "production" else None
errorlog = "-"
# who may send X-Forwarded-*: the proxy beside us, whose address inside its network is not known beforehand
forwarded_allow_ips = "*" if settings.TRUST_PROXY_TLS else "127.0.0.1,::1"
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None


def post_worker_init(worker: object) -> None:
    """What is loaded by now stays: the collector of garbage need not look through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
