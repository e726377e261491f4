"""A training's state follows the states of its runs."""

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import StateConflict
from labelapp.models import Run, Training


def state_of_runs(states: set[str]) -> str:
    """What a training is while its runs are in these states; active until the last one stands still."""
    if Run.State.RUNNING in states:
        return Training.State.ACTIVE
    if Run.State.FAILED in states:
        return Training.State.FAILED
    if Run.State.CANCELLED in states:
        return Training.State.CANCELLED
    return Training.State.DONE if states == {Run.State.DONE} else Training.State.ACTIVE


def training_refresh(*, training_id: int | None) -> None:
    """Bring the training's state in line with its runs; call it in the run's own transaction.

    Raises StateConflict when it would become active while another one of the project is.
    """
    if training_id is None:
        return
    training = Training.objects.select_for_update().get(pk=training_id)
    state = state_of_runs(set(training.runs.values_list("state", flat=True)))
    if state == training.state:
        return
    training.state = state
    training.finished_at = None if state == Training.State.ACTIVE else timezone.now()
    try:
        with transaction.atomic():
            training.save(update_fields=["state", "finished_at"])
    except IntegrityError:
        raise StateConflict(
            _("Another training of this project runs already; stop it or wait until it ends.")
        ) from None
