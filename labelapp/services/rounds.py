"""Opening and closing labeling rounds."""

import random
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Unpack

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import (
    PROMPTS_WANTED,
    InstructionVersion,
    ModelVersion,
    Project,
    PromptKind,
    Round,
    Run,
    Split,
    Task,
    User,
)
from labelapp.selectors.lists import prompts_fitting
from labelapp.selectors.pairs import prompts_of_pairs
from labelapp.services.handout import Handout, check_range, handout_checked
from labelapp.services.pairs import Pairs, pairs_checked
from labelapp.services.ratings import RatingsAsked, ratings_asked_checked
from labelapp.services.runs import LIVE, pair_sampling_queue, run_cancel, sampling_queue
from labelapp.services.settling import undos_wait


@transaction.atomic
def instructions_add(*, project: Project, body: str, by: User | None = None) -> InstructionVersion:
    """The next version of the labelers' instructions; earlier ones stay as they were."""
    body = body.strip()
    if not body:
        raise BadInput(_("The instructions are empty."), fields={"body": _("Empty.")})
    Project.objects.select_for_update().get(pk=project.pk)
    last = project.instructions.aggregate(Max("number"))["number__max"] or 0
    return InstructionVersion.objects.create(
        project=project, number=last + 1, body=body, created_by=by
    )


class Choices(Handout, RatingsAsked, Pairs, total=False):
    """What a round may be told beside; what is left out is as the model has it."""

    live_prompting: bool


def _choices_checked(choices: Choices) -> dict[str, Any]:
    return {**handout_checked(choices), **ratings_asked_checked(choices)}


def prompts_for_labeling(
    project: Project, kinds: Collection[str] = (), use_cases: Collection[str] = ()
) -> "list[int]":
    """Ids of the prompts that may be labeled: never those of the test split."""
    prompts = prompts_fitting(project, [Split.TRAIN, Split.VALID], kinds, use_cases)
    return list(prompts.values_list("pk", flat=True))


def _tasks(
    round_: Round, kind: str, prompts: list[int], overlap: int, overlap_tasks: int | None
) -> list[Task]:
    """Of the drawn ``prompts`` the first get the overlap; in sequential order by their number."""
    often = set(prompts[:overlap_tasks])
    if round_.order == Round.Order.SEQUENTIAL:
        prompts = sorted(prompts)
    state = Task.State.OPEN if kind == Task.Kind.DEMONSTRATION else Task.State.WAITING
    return [
        Task(
            project_id=round_.project_id,
            round=round_,
            prompt_id=prompt,
            kind=kind,
            state=state,
            overlap=overlap if prompt in often else 1,
            position=position,
        )
        for position, prompt in enumerate(prompts)
    ]


def _prompt_tasks(round_: Round) -> list[Task]:
    """A task for each prompt that is to be written; user-based ones take the use cases in turn."""
    wanted = {
        PromptKind.PLAIN: round_.plain_prompts_wanted,
        PromptKind.FEW_SHOT: round_.few_shot_prompts_wanted,
        PromptKind.USER: round_.user_prompts_wanted,
    }
    asked = [
        (kind, round_.stated_use_cases[n % len(round_.stated_use_cases)] if kind == "user" else "")
        for kind, count in wanted.items()
        for n in range(count)
    ]
    random.Random(f"prompts of round {round_.seed}").shuffle(asked)
    return [
        Task(
            project_id=round_.project_id,
            round=round_,
            kind=Task.Kind.PROMPT,
            asked_kind=kind,
            brief=brief,
            state=Task.State.OPEN,
            position=position,
        )
        for position, (kind, brief) in enumerate(asked)
    ]


def _tasks_create(round_: Round, prompts: list[int], of_pairs: list[int]) -> None:
    """The round's tasks, on prompts drawn by its seed."""
    draw = random.Random(f"round {round_.seed}")
    often = round_.overlap
    for kind, drawn_from, wanted, overlap, some in (
        (Task.Kind.DEMONSTRATION, prompts, round_.demonstrations_wanted, 1, None),
        (Task.Kind.RANKING, prompts, round_.rankings_wanted, often, round_.overlap_tasks),
        (Task.Kind.PAIRWISE, of_pairs, round_.pairs_wanted, often, None),
    ):
        chosen = draw.sample(drawn_from, min(wanted, len(drawn_from)))
        Task.objects.bulk_create(_tasks(round_, kind, chosen, overlap, some), batch_size=1000)
    Task.objects.bulk_create(_prompt_tasks(round_), batch_size=1000)


def _prompts_of_pairs(
    project: Project, kinds: Collection[str], use_cases: Collection[str], pairs: Pairs
) -> list[int]:
    """Ids of the prompts that pairs may be drawn on; none where no pair is wanted."""
    if not pairs.get("pairs_wanted"):
        return []
    split = pairs.get("pairs_split", Split.TEST)
    found = list(prompts_of_pairs(project, split, kinds, use_cases).values_list("pk", flat=True))
    if not found:
        raise BadInput(
            _(
                "No prompt of the %(split)s split fits; choose another split for the pairs, or more"
                " kinds or use cases."
            )
            % {"split": split},
            fields={"pairs_split": _("No prompt fits.")},
        )
    return found


def _policy_ready(project: Project) -> ModelVersion:
    """Who answers in the next round; StateConflict where it cannot be opened now."""
    if project.rounds.filter(state=Round.State.OPEN).exists():
        raise StateConflict(_("A round is open already; close it before you open the next."))
    policy = project.versions.filter(
        role=ModelVersion.Role.POLICY, state=ModelVersion.State.CURRENT
    ).first()
    if policy is None:
        raise StateConflict(_("There is no current policy yet; the base model is still loading."))
    return policy


@transaction.atomic
def round_open(
    *,
    project: Project,
    demonstrations_wanted: int,
    rankings_wanted: int,
    by: User | None = None,
    k: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    overlap: int = 1,
    overlap_tasks: int | None = None,
    kinds: Collection[str] = (),
    use_cases: Collection[str] = (),
    instructions: InstructionVersion | None = None,
    seed: int | None = None,
    **choices: Unpack[Choices],
) -> Round:
    """Open the next round with its tasks; ranking tasks wait until the policy has answered.

    Prompts are drawn by ``seed`` (default: the round's number) from the train and valid splits.
    """
    numbers = {
        "demonstrations_wanted": demonstrations_wanted,
        "rankings_wanted": rankings_wanted,
        "k": k,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "overlap": overlap,
    }
    for name, value in numbers.items():
        check_range(name, value)
    chosen = _choices_checked(choices)
    undos_wait(project.pk)  # of written prompts: what is drawn below stays
    locked = Project.objects.select_for_update().get(pk=project.pk)
    policy = _policy_ready(locked)
    instructions = instructions or locked.instructions.order_by("-number").first()
    if instructions is None:
        raise StateConflict(_("Write the labelers' instructions first."))
    prompts = prompts_for_labeling(locked, kinds, use_cases)
    pairs_checked(project=locked, policy=policy, pairs=choices)
    of_pairs = _prompts_of_pairs(locked, kinds, use_cases, choices)
    to_write = sum(chosen.get(name, 0) for name in PROMPTS_WANTED) + len(of_pairs)
    if not prompts and (demonstrations_wanted or rankings_wanted or not to_write):
        raise BadInput(_("No prompt fits; choose more kinds or use cases, or upload prompts."))
    if demonstrations_wanted < 1 and rankings_wanted < 1 and to_write < 1:
        raise BadInput(_("Ask for at least one demonstration, ranking, prompt or pair."))
    number = (locked.rounds.aggregate(Max("number"))["number__max"] or 0) + 1
    round_ = Round.objects.create(
        project=locked,
        number=number,
        policy=policy,
        instructions=instructions,
        kinds=list(kinds),
        use_cases=list(use_cases),
        demonstrations_wanted=demonstrations_wanted,
        rankings_wanted=rankings_wanted,
        k=k,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        overlap=overlap,
        overlap_tasks=overlap_tasks,
        seed=number if seed is None else seed,
        created_by=by,
        **chosen,
    )
    _tasks_create(round_, prompts, of_pairs)
    if rankings_wanted:
        sampling_queue(round=round_)
    pair_sampling_queue(round=round_)
    return round_


@transaction.atomic
def round_close(*, round: Round) -> None:
    """No more tasks are handed out, no more answers drawn; work in hand may still be handed in."""
    of_the_round = (Run.Stage.SAMPLE, Run.Stage.SCORE)
    for run in round.runs.filter(stage__in=of_the_round, state__in=LIVE):
        with suppress(StateConflict):  # it has just ended by itself
            run_cancel(run=run)
    closed = Round.objects.filter(pk=round.pk, state=Round.State.OPEN).update(
        state=Round.State.CLOSED, closed_at=timezone.now()
    )
    if not closed:
        raise StateConflict(_("This round is closed already."))
    Task.objects.filter(round=round).exclude(state=Task.State.CLOSED).update(
        state=Task.State.CLOSED
    )
