"""Flags and questions of labelers, and what admins do about them. Nobody leaves a task for it."""

from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, NotFound, StateConflict
from labelapp.models import LETTERS, Flag, Note, Project, Thread, User
from labelapp.services.assignments import assignment_lock
from labelapp.texts import storable

WORDS_LIMIT = 500
NOTE_LIMIT = 2000
NOTES_LIMIT = 200
"""Notes of one thread at most."""


def _text(text: str, *, limit: int, name: str) -> str:
    text = text.strip()
    if len(text) > limit or not storable(text):
        raise BadInput(
            _("Keep it to plain text of at most %(limit)s characters.")
            % {"limit": number_format(limit, force_grouping=True)},
            fields={name: _("Too long.")},
        )
    return text


@transaction.atomic
def flag_raise(
    *,
    assignment_id: UUID,
    labeler: User,
    category: str,
    client_id: UUID,
    words: str = "",
    answer: str = "",
) -> Flag:
    """Flag a task of one's own, or one answer by its letter. Asked again, it gives the same flag."""
    if category not in Flag.Category.values:
        raise BadInput(_("Choose what is wrong."), fields={"category": _("Unknown.")})
    words = _text(words, limit=WORDS_LIMIT, name="words")
    if category == Flag.Category.OTHER and not words:
        raise BadInput(_("Say in a few words what is wrong."), fields={"words": _("Missing.")})
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    earlier = Flag.objects.filter(client_id=client_id, assignment=assignment).first()
    if earlier is not None:
        return earlier
    samples = dict(zip(LETTERS, assignment.shown_order, strict=False))
    if answer and answer not in samples:
        raise BadInput(
            _("There is no answer %(answer)s.") % {"answer": answer},
            fields={"answer": _("Unknown letter.")},
        )
    try:
        with transaction.atomic():
            return Flag.objects.create(
                project_id=assignment.project_id,
                assignment=assignment,
                sample_id=samples.get(answer),
                category=category,
                words=words,
                client_id=client_id,
            )
    except IntegrityError:
        raise StateConflict(_("You have flagged this already; an admin will look at it.")) from None


@transaction.atomic
def flag_resolve(*, project: Project, pk: int, by: User) -> Flag:
    """Mark a flag as dealt with. Safe to run twice."""
    flag = Flag.objects.select_for_update().filter(project=project, pk=pk).first()
    if flag is None:
        raise NotFound(_("There is no such flag in this project."))
    if flag.resolved_at is None:
        flag.resolved_at, flag.resolved_by = timezone.now(), by
        flag.save(update_fields=["resolved_at", "resolved_by"])
    return flag


@transaction.atomic
def note_ask(*, assignment_id: UUID, labeler: User, text: str, client_id: UUID) -> Note:
    """Ask the admins about a task of one's own. The same ``client_id`` again gives the same note."""
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler)
    thread, _created = Thread.objects.get_or_create(
        assignment=assignment,
        defaults={"project_id": assignment.project_id, "labeler": labeler},
    )
    note = _note(thread, labeler, text, client_id)
    Thread.objects.filter(pk=thread.pk).update(waiting=True, updated_at=timezone.now())
    return note


@transaction.atomic
def note_answer(*, project: Project, thread_id: int, by: User, text: str, client_id: UUID) -> Note:
    """Answer a labeler's question; they see it in the task and on their work page."""
    thread = _thread_lock(project, thread_id)
    note = _note(thread, by, text, client_id)
    thread.waiting, thread.unseen = False, True
    thread.save()
    return note


@transaction.atomic
def thread_settle(*, project: Project, thread_id: int) -> Thread:
    """A thread that needs no answer waits no more."""
    thread = _thread_lock(project, thread_id)
    thread.waiting = False
    thread.save()
    return thread


def answers_seen(*, project: Project, labeler: User, thread_id: int) -> None:
    """The labeler has read the answers."""
    Thread.objects.filter(project=project, labeler=labeler, pk=thread_id).update(unseen=False)


def _thread_lock(project: Project, thread_id: int) -> Thread:
    thread = Thread.objects.select_for_update().filter(project=project, pk=thread_id).first()
    if thread is None:
        raise NotFound(_("There is no such question in this project."))
    return thread


def _note(thread: Thread, author: User, text: str, client_id: UUID) -> Note:
    text = _text(text, limit=NOTE_LIMIT, name="text")
    if not text:
        raise BadInput(_("Write something first."), fields={"text": _("Empty.")})
    earlier = Note.objects.filter(client_id=client_id).first()
    if earlier is not None:
        if earlier.thread_id != thread.pk or earlier.author_id != author.pk:
            raise BadInput(_("This was sent before, elsewhere; reload the page."))
        return earlier
    if thread.notes.count() >= NOTES_LIMIT:
        raise StateConflict(_("This thread is full; speak to an admin."))
    return Note.objects.create(thread=thread, author=author, text=text, client_id=client_id)
