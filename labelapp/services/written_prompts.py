"""Prompts that labelers write, of InstructGPT's three kinds (appendix A.1): they feed the next round."""

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Project, Prompt, PromptKind, Task, User
from labelapp.services.assignments import assignment_lock
from labelapp.services.labels import assignment_close, expect_kind
from labelapp.services.prompts import AUTHOR_LIMIT, PromptInput, labeler_as_author, prompt_checked


def few_shot_text(parts: dict[str, Any]) -> str:
    """A few-shot prompt as the model sees it: the instruction, the pairs, what is to be answered."""
    pairs = [f"Input: {pair['query']}\nOutput: {pair['response']}" for pair in parts["pairs"]]
    return "\n\n".join([parts["instruction"], *pairs, f"Input: {parts['query']}\nOutput:"])


def _checked(task: Task, content: dict[str, Any], author: str) -> PromptInput:
    """What the labeler wrote as a prompt of the kind that was asked for, or BadInput."""
    allowed = {"use_case"} | (
        {"instruction", "pairs", "query"} if task.asked_kind == PromptKind.FEW_SHOT else {"text"}
    )
    unknown = sorted(set(content) - allowed)
    if unknown:
        raise BadInput(
            _("There is no field %(name)s here.") % {"name": repr(unknown[0])},
            fields={"prompt": _("Unknown.")},
        )
    if not content.get("use_case"):
        raise BadInput(_("Say what kind of use it is."), fields={"use_case": _("Missing.")})
    plain = {**content, "kind": task.asked_kind, "author": author}
    if task.asked_kind == PromptKind.USER:
        plain["stated_use_case"] = task.brief
    elif task.asked_kind == PromptKind.FEW_SHOT:
        if not str(content.get("query") or "").strip():
            raise BadInput(
                _("Write the query that is to be answered."), fields={"query": _("Missing.")}
            )
        # checked once for its parts, then with the text that they make
        plain["text"] = few_shot_text(prompt_checked({**plain, "text": "?"}).parts)
    return prompt_checked(plain)


def _earlier(assignment: Assignment, client_id: UUID) -> Prompt | None:
    """The prompt that an earlier try of the same submit made."""
    made = Prompt.objects.filter(client_id=client_id).first()
    if made is not None and made.assignment_id != assignment.pk:
        raise BadInput(_("This submit belongs to another task; reload the page."))
    if made is None and assignment.state not in (
        Assignment.State.LEASED,
        Assignment.State.LAPSED,
    ):
        raise StateConflict(_("You have finished this task already, in another window perhaps."))
    return made


@transaction.atomic
def written_prompt_submit(
    *,
    assignment_id: UUID,
    labeler: User,
    prompt: dict[str, Any],
    client_id: UUID,
    active_ms: int | None = None,
    idle_ms: int | None = None,
    draft: dict[str, Any] | None = None,
    project: Project | None = None,
) -> Prompt:
    """Store a prompt that a labeler wrote. The same ``client_id`` again gives the same row.

    Its author, by whose hash it is split, is the labeler's pseudonym. It is refused where the
    project has it already, or this author's number is full.
    """
    assignment = assignment_lock(assignment_id=assignment_id, labeler=labeler, project=project)
    expect_kind(assignment, Task.Kind.PROMPT)
    earlier = _earlier(assignment, client_id)
    if earlier is not None:
        return earlier
    author, split = labeler_as_author(labeler)
    checked = _checked(assignment.task, prompt, author)
    mine = Prompt.objects.filter(project_id=assignment.project_id, author=author)
    if mine.count() >= AUTHOR_LIMIT:
        raise StateConflict(
            _("You have written %(limit)s prompts, the most for one author. Skip this task.")
            % {"limit": AUTHOR_LIMIT}
        )
    try:
        with transaction.atomic():
            made = Prompt.objects.create(
                project_id=assignment.project_id,
                kind=checked.kind,
                use_case=checked.use_case,
                author=author,
                split=split,
                text=checked.text,
                parts=checked.parts,
                fingerprint=checked.fingerprint,
                assignment=assignment,
                client_id=client_id,
            )
    except IntegrityError as error:
        if "prompt_once" not in str(error):
            raise
        raise BadInput(
            _("This prompt is there already, word for word. Write another one."),
            fields={"prompt": _("Duplicate.")},
        ) from None
    assignment_close(assignment, active_ms, idle_ms)
    assignment.save(update_fields=["state", "active_ms", "idle_ms", "ended_at", "settles_at"])
    return made
