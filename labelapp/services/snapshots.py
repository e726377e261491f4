"""Freezing labels into folders that their content names.

Rows are streamed in the order of their ids, so the same labels give the same bytes and the same
name. Everything a row needs comes with its block of BLOCK rows: no query per row.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from django.db import transaction
from django.db.models import Prefetch, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labelapp.errors import BadInput
from labelapp.models import (
    Demonstration,
    Project,
    Prompt,
    Ranking,
    RankingPlace,
    Sample,
    Snapshot,
    User,
    Vote,
)
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.services.settling import undos_wait
from labelapp.trainer_gateway import (
    ComparisonRow,
    DemonstrationRow,
    Message,
    Output,
    PromptRow,
    Sampling,
    VoteRow,
    snapshot_write,
)

BLOCK = 500
EMPTY = {
    Snapshot.Kind.DEMONSTRATIONS: gettext_lazy(
        "There are no demonstrations to freeze. Write or upload one first."
    ),
    Snapshot.Kind.COMPARISONS: gettext_lazy(
        "There are no rankings to freeze. Let labelers rank answers first."
    ),
    Snapshot.Kind.PROMPTS: gettext_lazy("There are no prompts to freeze. Upload prompts first."),
    Snapshot.Kind.VOTES: gettext_lazy(
        "There are no votes to freeze. Let labelers compare pairs first."
    ),
}


@transaction.atomic
def snapshot_freeze(
    *, project: Project, kind: str, include_simulated: bool = False, by: User | None = None
) -> Snapshot:
    """Freeze all demonstrations, rankings, prompts or votes of a project.

    Surplus labels stay out, simulated ones too unless asked for, and labels that can still be
    taken back; of corrected ones the latest version goes in. Raises BadInput, with what to do,
    when nothing is left.
    """
    undos_wait(project.pk)
    source, to_row = _SOURCES[Snapshot.Kind(kind)]
    labels = source(project, include_simulated)
    if kind == Snapshot.Kind.PROMPTS:
        include_simulated = False  # nothing of a prompt is simulated: one identity, one name
    ids: list[int] = []
    identity = {"include_simulated": include_simulated}
    frozen = snapshot_write(kind=kind, rows=_rows(labels, to_row, ids), identity=identity)
    if frozen is None:
        message = str(EMPTY[Snapshot.Kind(kind)])
        if not include_simulated and kind != Snapshot.Kind.PROMPTS:
            message += " " + _("Simulated ones stay out unless they are included.")
        raise BadInput(message)
    snapshot, created = Snapshot.objects.get_or_create(
        project=project,
        name=frozen.name,
        defaults={
            "kind": kind,
            "sha256": frozen.sha256,
            "rows": frozen.rows,
            "include_simulated": include_simulated,
            "created_by": by,
        },
    )
    if created:
        _link_labels(snapshot, ids)
    return snapshot


@transaction.atomic
def prompts_freeze(*, project: Project, prompts: QuerySet[Prompt]) -> Snapshot:
    """Freeze some prompts of a project, in the order given, to be answered."""
    rows = (_prompt_row(prompt) for prompt in prompts.iterator(chunk_size=BLOCK))
    identity = {"include_simulated": False}
    frozen = snapshot_write(kind=Snapshot.Kind.PROMPTS.value, rows=rows, identity=identity)
    if frozen is None:
        raise BadInput(_("There are no prompts to answer."))
    snapshot, _created = Snapshot.objects.get_or_create(
        project=project,
        name=frozen.name,
        defaults={
            "kind": Snapshot.Kind.PROMPTS,
            "sha256": frozen.sha256,
            "rows": frozen.rows,
        },
    )
    return snapshot


def _rows(labels: QuerySet[Any], to_row: Callable[[Any], Any], ids: list[int]) -> Iterator[Any]:
    for label in labels.iterator(chunk_size=BLOCK):
        ids.append(label.pk)
        yield to_row(label)


def _link_labels(snapshot: Snapshot, ids: list[int]) -> None:
    """The way back from a snapshot to its labels."""
    if snapshot.kind == Snapshot.Kind.DEMONSTRATIONS:
        made = Snapshot.demonstrations.through.objects
        links: Iterable[Any] = (
            Snapshot.demonstrations.through(snapshot_id=snapshot.pk, demonstration_id=pk)
            for pk in ids
        )
        made.bulk_create(links, batch_size=5000)
    elif snapshot.kind == Snapshot.Kind.COMPARISONS:
        links = (Snapshot.rankings.through(snapshot_id=snapshot.pk, ranking_id=pk) for pk in ids)
        Snapshot.rankings.through.objects.bulk_create(links, batch_size=5000)
    elif snapshot.kind == Snapshot.Kind.VOTES:
        links = (Snapshot.votes.through(snapshot_id=snapshot.pk, vote_id=pk) for pk in ids)
        Snapshot.votes.through.objects.bulk_create(links, batch_size=5000)


def _of_prompt(prompt: Prompt) -> dict[str, Any]:
    """What every kind of row says of its prompt."""
    return {
        "prompt": tuple(Message(**message) for message in prompt.messages()),
        "split": prompt.split,
        "kind": prompt.kind,
        "use_case": prompt.use_case,
    }


# --- prompts


def _prompts(project: Project, include_simulated: bool) -> QuerySet[Prompt]:
    return project.prompts.current().order_by("pk")


def _prompt_row(prompt: Prompt) -> PromptRow:
    return PromptRow(id=str(prompt.pk), **_of_prompt(prompt))


# --- demonstrations


def _demonstrations(project: Project, include_simulated: bool) -> QuerySet[Demonstration]:
    found = project.demonstrations.current().filter(surplus=False)
    if not include_simulated:
        found = found.filter(simulated=False)
    return found.order_by("pk").select_related("prompt", "assignment__task__round__instructions")


def _demonstration_row(label: Demonstration) -> DemonstrationRow:
    round_ = label.assignment.task.round if label.assignment else None
    return DemonstrationRow(
        id=str(label.pk),
        prompt_id=str(label.prompt_id),
        completion=label.text,
        source=cast(Any, label.source),
        labeler=labeler_pseudonym(label.labeler_id) if label.labeler_id else None,
        labeler_group=None,
        round=round_.number if round_ else None,
        instructions_version=round_.instructions.number if round_ else None,
        active_ms=label.active_ms,
        confidence=None,
        simulated=label.simulated,
        version=label.version,
        **_of_prompt(label.prompt),
    )


# --- rankings


def _rankings(project: Project, include_simulated: bool) -> QuerySet[Ranking]:
    found = project.rankings.current().filter(surplus=False)
    if not include_simulated:
        found = found.filter(simulated=False)
    places = RankingPlace.objects.select_related("sample__version", "rating").order_by("shown")
    return (
        found.order_by("pk")
        .select_related("task__prompt", "task__round__instructions")
        .prefetch_related(Prefetch("places", queryset=places))
    )


def _output(sample: Sample) -> Output:
    return Output(
        id=str(sample.pk),
        text=sample.text,
        token_ids=tuple(sample.token_ids),
        finished=sample.finished,
        policy=str(sample.version),
        sampling=Sampling(
            temperature=sample.temperature,
            seed=sample.seed,
            index=sample.index,
            max_new_tokens=sample.max_new_tokens,
        ),
    )


def _comparison_row(label: Ranking) -> ComparisonRow:
    places = list(label.places.all())
    groups: dict[int, list[RankingPlace]] = {}
    for place in sorted(places, key=lambda place: place.sample.index):
        if place.group is not None:
            groups.setdefault(place.group, []).append(place)
    rated = {
        str(place.sample_id): said
        for place in places
        if (said := getattr(place, "rating", None)) is not None
    }
    prompt, round_ = label.task.prompt, label.task.round
    return ComparisonRow(
        id=str(label.pk),
        task_id=str(label.task_id),
        prompt_id=str(prompt.pk),
        outputs=tuple(
            _output(p.sample) for p in sorted(places, key=lambda place: place.sample.index)
        ),
        shown_order=tuple(str(place.sample_id) for place in places),
        rank_groups=tuple(
            tuple(str(place.sample_id) for place in groups[group]) for group in sorted(groups)
        ),
        not_judged=tuple(str(place.sample_id) for place in places if place.group is None),
        all_bad=label.all_bad,
        ratings={oid: said.overall for oid, said in rated.items() if said.overall is not None}
        or None,
        flags={oid: said.flags for oid, said in rated.items() if said.flags} or None,
        strength=None if label.strength is None else float(label.strength),
        confidence=None,
        labeler=labeler_pseudonym(label.labeler_id),
        labeler_group=None,
        active_ms=label.active_ms,
        round=round_.number,
        instructions_version=round_.instructions.number,
        surplus=label.surplus,
        simulated=label.simulated,
        version=label.version,
        **_of_prompt(prompt),
    )


# --- votes


def _votes(project: Project, include_simulated: bool) -> QuerySet[Vote]:
    found = project.votes.current().filter(surplus=False)
    if not include_simulated:
        found = found.filter(simulated=False)
    return found.order_by("pk").select_related(
        "task__prompt", "task__round__instructions", "left__version", "right__version"
    )


def _vote_row(label: Vote) -> VoteRow:
    prompt, round_ = label.task.prompt, label.task.round
    return VoteRow(
        id=str(label.pk),
        task_id=str(label.task_id),
        prompt_id=str(prompt.pk),
        left=_output(label.left),
        right=_output(label.right),
        choice=cast(Any, label.choice),
        labeler=labeler_pseudonym(label.labeler_id),
        labeler_group=None,
        active_ms=label.active_ms,
        round=round_.number,
        instructions_version=round_.instructions.number,
        simulated=label.simulated,
        version=label.version,
        **_of_prompt(prompt),
    )


_SOURCES: dict[str, tuple[Callable[[Project, bool], QuerySet[Any]], Callable[[Any], Any]]] = {
    Snapshot.Kind.DEMONSTRATIONS: (_demonstrations, _demonstration_row),
    Snapshot.Kind.COMPARISONS: (_rankings, _comparison_row),
    Snapshot.Kind.PROMPTS: (_prompts, _prompt_row),
    Snapshot.Kind.VOTES: (_votes, _vote_row),
}
