"""labelapp: labelers write and rank, workers train, the new policy answers the next round."""

from labelapp.celery import app as celery_app

__all__ = ["celery_app"]
