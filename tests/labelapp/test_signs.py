"""Signs of life."""

import pytest

from labelapp.models import WorkerSign
from labelapp.services.signs import worker_sign_record


@pytest.mark.django_db
def test_a_second_sign_of_the_same_process_renews_the_first() -> None:
    worker_sign_record(kind="worker", host="one")
    first = WorkerSign.objects.get().seen_at
    worker_sign_record(kind="worker", host="one")
    assert WorkerSign.objects.get().seen_at > first


@pytest.mark.django_db
def test_a_process_of_an_unknown_kind_leaves_no_sign() -> None:
    worker_sign_record(kind="celery", host="one")
    assert not WorkerSign.objects.exists()
