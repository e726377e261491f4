"""Kept connections to the database: found dead without a question where nothing happened."""

import psycopg
import pytest
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper as PostgreSQL

from labelapp.models import Project

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_living_connection_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Project.objects.count() == 0
    monkeypatch.setattr(PostgreSQL, "is_usable", lambda self: pytest.fail("It was asked."))
    assert connection.is_usable()


def test_a_connection_that_the_server_ended_is_made_anew() -> None:
    assert Project.objects.count() == 0
    parameters = connection.get_connection_params()
    wanted = ("host", "port", "user", "password", "dbname")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    other = psycopg.connect(**{name: parameters[name] for name in wanted if name in parameters})
    with other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert not connection.is_usable()
    connection.close()
    assert Project.objects.count() == 0
