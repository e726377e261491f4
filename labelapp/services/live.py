"""Live prompting: a labeler writes a prompt, the round's policy answers at once, the labeler ranks.

What was typed is a row before anybody is asked, so it is never lost: where there are no live
answers its ranking task waits for a sampling run like all others.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labelapp.errors import BadInput, NotFound, StateConflict
from labelapp.models import (
    LETTERS,
    Assignment,
    LivePrompt,
    ModelVersion,
    Project,
    Prompt,
    PromptKind,
    Round,
    Run,
    RunInput,
    Sample,
    Task,
    User,
)
from labelapp.policy_server import (
    Event,
    PolicyLater,
    PolicyRefuses,
    policy_answers,
    policy_load,
    policy_state,
)
from labelapp.services.assignments import assignment_give, quota_check, shown_shuffle
from labelapp.services.next_task import standings_of
from labelapp.services.prompts import AUTHOR_LIMIT, labeler_as_author, prompt_checked
from labelapp.services.runs import sampling_queue
from labelapp.services.samples import sample_of
from labelapp.store import clean_text
from labelapp.trainer_gateway import SampleRow

ASK_SECONDS = 120.0
"""How long a live answer may take before a sampling run takes the prompt up."""
IN_HAND = gettext_lazy(
    "You have a task in work. Hand it in or skip it first; what you wrote here stays."
)


@transaction.atomic
def live_prompt_write(
    *, project: Project, labeler: User, text: str, use_case: str, client_id: UUID
) -> tuple[LivePrompt, bool]:
    """Keep a prompt with its waiting task, and whether the caller is the one to have it answered.

    The same ``client_id`` again gives the same row. BadInput for a prompt that is no good or is
    there already; StateConflict where the round does not take any.
    """
    round_ = project.rounds.filter(state=Round.State.OPEN).first()
    if round_ is None:
        raise StateConflict(_("No round is open. What you wrote stays here; try again later."))
    round_ = Round.objects.select_for_update(no_key=True).get(pk=round_.pk)
    now = timezone.now()
    earlier = LivePrompt.objects.select_related("task").filter(client_id=client_id).first()
    if earlier is not None:
        return _again(earlier, labeler)
    if round_.state != Round.State.OPEN or not round_.live_prompting:
        raise StateConflict(_("This round takes no prompts of your own."))
    if project.assignments.filter(labeler=labeler, state=Assignment.State.LEASED).exists():
        raise StateConflict(IN_HAND)
    quota_check(round_, standings_of(round_, labeler))
    if project.live_prompts.filter(labeler=labeler).count() >= AUTHOR_LIMIT:
        raise BadInput(
            _("You have written %(limit)s prompts, the most one person may.")
            % {"limit": AUTHOR_LIMIT}
        )
    prompt = _prompt(project, labeler, text, use_case)
    task = Task.objects.create(
        project=project,
        round=round_,
        prompt=prompt,
        kind=Task.Kind.RANKING,
        state=Task.State.WAITING,
        position=0,  # somebody waits for it
    )
    live = LivePrompt.objects.create(
        project=project,
        round=round_,
        labeler=labeler,
        prompt=prompt,
        task=task,
        client_id=client_id,
        asked_until=now + timedelta(seconds=ASK_SECONDS),
    )
    project.live_drafts.filter(labeler=labeler).delete()
    return live, True


def _again(live: LivePrompt, labeler: User) -> tuple[LivePrompt, bool]:
    """An earlier try: it may be asked again where nobody does."""
    if live.labeler_id != labeler.pk:
        raise BadInput(_("This prompt belongs to someone else; reload the page."))
    now = timezone.now()
    idle = live.asked_until is None or live.asked_until <= now
    if live.task.state != Task.State.WAITING or not idle:
        return live, False
    live.asked_until = now + timedelta(seconds=ASK_SECONDS)
    live.save(update_fields=["asked_until"])
    return live, True


def _prompt(project: Project, labeler: User, text: str, use_case: str) -> Prompt:
    author, split = labeler_as_author(labeler)
    given = {"kind": PromptKind.PLAIN, "use_case": use_case, "author": author, "text": text}
    checked = prompt_checked({name: str(value) for name, value in given.items()})
    try:
        with transaction.atomic():
            return Prompt.objects.create(
                project=project,
                kind=checked.kind,
                use_case=checked.use_case,
                author=checked.author,
                split=split,
                text=checked.text,
                fingerprint=checked.fingerprint,
            )
    except IntegrityError:
        raise BadInput(
            _("This prompt is there already. Change a few words, or write another."),
            fields={"text": _("There already.")},
        ) from None


def live_answers(live: LivePrompt) -> Iterator[Event]:
    """The answers as they are drawn, by letter, never by who wrote them.

    ``text`` and ``answer`` (with ``letter``), then ``ready`` with the assignment to rank on, or
    ``later``, or ``refused`` with a sentence. Whoever stops listening leaves it to a sampling run.
    """
    round_ = Round.objects.select_related("policy").get(pk=live.round_id)
    indices = list(range(round_.k))
    shown = shown_shuffle(task_id=live.task_id, labeler_id=live.labeler_id, items=indices)
    letter = {index: LETTERS[place] for place, index in enumerate(shown)}
    rows: list[SampleRow] = []
    try:
        for event in policy_answers(round_.policy.run_id, _asked(live, round_)):
            if event["event"] in ("text", "answer"):
                plain = {"event": event["event"], "letter": letter[event["index"]]}
                yield plain | {"text": clean_text(event["text"])}
            if event["event"] == "answer":
                rows.append(_row(live, round_, event))
        assignment = live_answers_store(live=live, rows=rows)
    except PolicyRefuses as refusal:
        live_prompt_withdraw(live=live)
        yield {"event": "refused", "message": str(refusal)}
    except (PolicyLater, KeyError, StateConflict) as later:
        live_prompt_release(live=live)
        yield {"event": "later", "why": getattr(later, "code", "")}
    except GeneratorExit:
        live_prompt_release(live=live)
        raise
    else:
        yield {"event": "ready", "assignment": str(assignment.pk)}


def _asked(live: LivePrompt, round_: Round) -> dict[str, Any]:
    """As the stage `sample` would be asked: the same answers come of it."""
    return {
        "id": str(live.prompt_id),
        "messages": live.prompt.messages(),
        "k": round_.k,
        "temperature": round_.temperature,
        "max_new_tokens": round_.max_new_tokens,
        "seed": round_.seed,
    }


def _row(live: LivePrompt, round_: Round, event: Event) -> SampleRow:
    return SampleRow(
        prompt_id=str(live.prompt_id),
        index=event["index"],
        text=event["text"],
        token_ids=tuple(event["token_ids"]),
        finished=event["finished"],
        seed=round_.seed,
        temperature=round_.temperature,
        max_new_tokens=round_.max_new_tokens,
    )


@transaction.atomic
def live_answers_store(*, live: LivePrompt, rows: list[SampleRow]) -> Assignment:
    """Keep the answers, open the task, and give it to who wrote the prompt."""
    round_ = Round.objects.select_for_update(no_key=True).get(pk=live.round_id)
    task = Task.objects.select_for_update().get(pk=live.task_id)
    if {row.index for row in rows} != set(range(round_.k)):
        raise PolicyLater("cut")
    if task.state == Task.State.WAITING:
        run = _live_run(round_)
        Sample.objects.bulk_create(
            sample_of(run, round_.policy_id, live.prompt_id, task, row, asked=live.prompt.text)
            for row in rows
        )
        task.state = Task.State.OPEN
        task.save(update_fields=["state"])
    LivePrompt.objects.filter(pk=live.pk).update(asked_until=None)
    return assignment_give(task_id=task.pk, labeler=live.labeler)


def _live_run(round_: Round) -> Run:
    """The run that stands for all live answers of a round; its row is locked by the caller."""
    run, created = Run.objects.get_or_create(
        round=round_,
        stage=Run.Stage.LIVE,
        defaults={
            "project_id": round_.project_id,
            "state": Run.State.DONE,
            "settings": {
                "k": round_.k,
                "temperature": round_.temperature,
                "max_new_tokens": round_.max_new_tokens,
                "seed": round_.seed,
            },
        },
    )
    if created:
        RunInput.objects.create(run=run, role="model", version_id=round_.policy_id)
    return run


def live_prompt_release(*, live: LivePrompt) -> None:
    """Nobody draws its answers live any more: the next sampling run has it."""
    LivePrompt.objects.filter(pk=live.pk).update(asked_until=None)
    live_prompts_queue()


@transaction.atomic
def live_prompt_withdraw(*, live: LivePrompt) -> None:
    """Take back a prompt that can never be answered, so that its writer may change it."""
    task = Task.objects.select_for_update().get(pk=live.task_id)
    if task.state == Task.State.WAITING:
        LivePrompt.objects.filter(pk=live.pk).delete()
        task.delete()
        Prompt.objects.filter(pk=live.prompt_id).delete()


def live_prompt_take(*, project: Project, labeler: User, pk: int) -> Assignment:
    """The task of one's own prompt, once it is answered."""
    live = project.live_prompts.filter(labeler=labeler, pk=pk).first()
    if live is None:
        raise NotFound(_("There is no such prompt among yours."))
    own = project.assignments.filter(labeler=labeler, state=Assignment.State.LEASED)
    if own.exclude(task_id=live.task_id).exists():
        raise StateConflict(IN_HAND)
    return assignment_give(task_id=live.task_id, labeler=labeler)


def live_prompts_queue() -> int:
    """Queue sampling runs for live prompts that nobody is answering; how many runs. Safe to repeat.

    Where a round's sampling run is under way or has failed, they wait for the one after it.
    """
    idle = Q(live_prompts__asked_until__isnull=True) | Q(
        live_prompts__asked_until__lte=timezone.now()
    )
    rounds = Round.objects.filter(
        idle, state=Round.State.OPEN, live_prompts__task__state=Task.State.WAITING
    ).distinct()
    sampling = Run.objects.filter(stage=Run.Stage.SAMPLE, for_pairs=False)
    unfinished = sampling.exclude(state=Run.State.DONE)
    queued = 0
    for round_ in rounds:
        if not unfinished.filter(round=round_).exists():
            queued += sampling_queue(round=round_) is not None
    return queued


def policies_refresh() -> None:
    """Have the policies loaded that live prompts need: of the newest open round, and the current one."""
    wanted = [
        *Round.objects.filter(state=Round.State.OPEN, live_prompting=True)
        .order_by("-created_at")
        .values_list("policy__run_id", flat=True)[:1],
        *ModelVersion.objects.filter(
            role=ModelVersion.Role.POLICY, state=ModelVersion.State.CURRENT
        )
        .order_by(F("promoted_at").desc(nulls_last=True))
        .values_list("run_id", flat=True)[:1],
    ]
    try:
        state = policy_state()
        known = {*state["models"], state.get("loading"), (state.get("failed") or "").split(":")[0]}
        missing = [run_id for run_id in dict.fromkeys(wanted) if str(run_id) not in known]
        if missing and state.get("loading") is None:
            policy_load(missing[0])
    except PolicyLater:
        return  # it is told again by the next sweep
