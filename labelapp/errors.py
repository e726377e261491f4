"""The errors of the web side. One place turns each into HTTP (``labelapp.api.exceptions``).

LabelappError                 what a person can act on; ``message`` is shown as it is
|-- NotAllowed          403   this person may not do this here
|-- NotFound            404   nothing of that name in this project
|-- BadInput            400   a field is missing or malformed; ``fields`` names them
|-- StateConflict       409   the thing has moved on: closed, already done, not ready
|   |-- LeaseExpired    409   the assignment lapsed and its place is taken
|   `-- QuotaReached    409   this labeler has done their share of the round
|-- SnapshotMismatch    409   a folder is not what its manifest says
`-- TrainerFailed       502   a child process of the trainer ended badly
"""

from django.utils.functional import Promise


class LabelappError(Exception):
    """Base of all. ``status`` is the HTTP status, ``code`` the stable name in JSON."""

    status = 400

    def __init__(self, message: str | Promise, *, fields: dict[str, str] | None = None) -> None:
        self.message = str(message)  # in the language of who is told, while that is known
        super().__init__(self.message)
        self.fields = fields or {}

    @property
    def code(self) -> str:
        """The class name in snake case, e.g. ``state_conflict``."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


class NotAllowed(LabelappError):
    status = 403


class NotFound(LabelappError):
    status = 404


class BadInput(LabelappError):
    status = 400


class StateConflict(LabelappError):
    status = 409


class LeaseExpired(StateConflict):
    pass


class QuotaReached(StateConflict):
    pass


class SnapshotMismatch(LabelappError):
    status = 409


class TrainerFailed(LabelappError):
    status = 502
