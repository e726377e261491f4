"""Queries that are built once: what the ORM makes of them is kept, and so is the database's plan.

For the few that every labeler's every step asks. The shape of such a query must not depend on its
values, which ``Given`` stands for; everything else in it is written into the SQL.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.backends.postgresql.base import ServerBindingCursor
from django.db.backends.utils import CursorWrapper
from django.db.models import Expression, Model, QuerySet
from django.db.models.query import get_related_populators
from psycopg import sql

M = TypeVar("M", bound=Model)


class Given(Expression):
    """In a query, the place of a value that each call gives by name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        return "%s", [self]


def execute(statement: str, values: Sequence[Any]) -> CursorWrapper:
    """Run a statement whose plan the database keeps for this connection; ``%s`` for each value."""
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    made = ServerBindingCursor(connection.connection)  # type: ignore[call-arg]
    cursor: CursorWrapper = connection._prepare_cursor(made)  # type: ignore[attr-defined]
    cursor.execute(statement, values)
    return cursor


class Prepared(Generic[M]):
    """A query of whole rows, and of those that ``select_related`` joins to them."""

    def __init__(self, build: Callable[[], QuerySet[M]]) -> None:
        self.build = build
        self._statement: str | None = None

    def rows(self, **given: object) -> list[M]:
        """What it finds with these values."""
        if self._statement is None:
            self._compile()
        with execute(str(self._statement), [given[name] for name in self._names]) as cursor:
            found = cursor.fetchall()
        return [self._row(list(values)) for values in found]

    def first(self, **given: object) -> M | None:
        """The first of ``rows``."""
        return next(iter(self.rows(**given)), None)

    def _compile(self) -> None:
        query = self.build().query
        compiler = query.get_compiler(connection=connection)
        text, params = compiler.as_sql()
        self._converters = compiler.get_converters([each[0] for each in compiler.select])
        self._names = [each.name for each in params if isinstance(each, Given)]
        shape = compiler.klass_info or {}
        self._model, fields = shape["model"], shape["select_fields"]
        self._columns = slice(fields[0], fields[-1] + 1)
        self._attributes = [each[0].target.attname for each in compiler.select[self._columns]]
        self._related = get_related_populators(  # type: ignore[call-arg]
            shape, compiler.select, connection.alias
        )
        self._annotations = dict(compiler.annotation_col_map or {})
        connection.ensure_connection()
        text = text.replace("%%", "%%%%")  # still to be read by the driver
        self._statement = text % tuple(_place(each) for each in params)

    def _row(self, values: list[Any]) -> M:
        for column, (converters, expression) in self._converters.items():
            for convert in converters:
                values[column] = convert(values[column], expression, connection)
        row: M = self._model.from_db(connection.alias, self._attributes, values[self._columns])
        for related in self._related:
            related.populate(values, row)
        for name, column in self._annotations.items():
            setattr(row, name, values[column])
        return row


def _place(param: object) -> str:
    """A placeholder for what is given; what is always the same stands in the SQL itself."""
    if isinstance(param, Given):
        return "%s"
    literal: str = sql.Literal(param).as_string(connection.connection)
    return literal.replace("%", "%%")


def inserted(row: Model) -> dict[str, Any]:
    """By column, what an insert of the row writes; without its key where the database draws it."""
    return _written(
        row,
        [
            field.name
            for field in row._meta.concrete_fields
            if not (field.generated or (field.primary_key and row.pk is None))
        ],
        add=True,
    )


def changed(row: Model, names: Sequence[str]) -> dict[str, Any]:
    """By column, what an update of these fields of the row writes."""
    return _written(row, names, add=False)


def _written(row: Model, names: Sequence[str], *, add: bool) -> dict[str, Any]:
    fields: list[Any] = [row._meta.get_field(name) for name in names]
    return {
        field.column: field.get_db_prep_save(field.pre_save(row, add), connection)
        for field in fields
    }
