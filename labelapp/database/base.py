"""The backend that ENGINE names."""

import select

from django.db.backends.postgresql.base import DatabaseWrapper as PostgreSQL


class DatabaseWrapper(PostgreSQL):
    """Looks at the socket to see whether a kept connection still lives, before it asks the server.

    A server that went away has closed it, or said why, so something can be read; where nothing
    can, nothing happened since the last answer.
    """

    def is_usable(self) -> bool:
        if self.connection is None or self.connection.closed:
            return False
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0) or super().is_usable()
