"""What the admins' and researchers' lists show. Each list costs the same few queries at any length."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce, Now
from django.utils.translation import gettext as _

from labelapp.errors import NotFound
from labelapp.models import (
    Assignment,
    Demonstration,
    InstructionVersion,
    Invite,
    Membership,
    ModelVersion,
    Project,
    Prompt,
    PromptKind,
    Round,
    Sample,
    Snapshot,
    Split,
    Training,
    Upload,
    UseCase,
)
from labelapp.models.assignments import handed_in

LABELED_SPLITS = (Split.TRAIN, Split.VALID)
"""Labels that are trained on are made on these; test prompts are kept for win rates."""


def round_get(*, project: Project, number: int) -> Round:
    """The project's round of that number; NotFound where there is none."""
    found = (
        project.rounds.select_related("project", "policy", "opponent", "instructions", "created_by")
        .filter(number=number)
        .first()
    )
    if found is None:
        raise NotFound(_("There is no round %(number)s in this project.") % {"number": number})
    return found


def rounds_list(project: Project) -> QuerySet[Round]:
    """All rounds, newest first, each with ``places`` (labels wanted) and ``labels`` (settled)."""
    unsettled = (
        Assignment.objects.unsettled()
        .filter(task__round=OuterRef("pk"))
        .order_by()
        .values("task__round")
        .values(count=Count("pk"))
    )
    return (
        project.rounds.select_related("policy", "instructions")
        .annotate(
            places=Sum("tasks__overlap", default=0),
            labels=Sum("tasks__submitted", default=0) - Coalesce(Subquery(unsettled), 0),
        )
        .order_by("-number")
    )


def training_get(*, project: Project, pk: int) -> Training:
    """One training of the project; NotFound for any other."""
    found = project.trainings.select_related("project", "round", "started_by").filter(pk=pk).first()
    if found is None:
        raise NotFound(_("There is no such training in this project."))
    return found


def trainings_of(round_: Round) -> QuerySet[Training]:
    """A round's trainings, newest first."""
    return round_.trainings.select_related("started_by", "round")


def version_get(*, project: Project, pk: int) -> ModelVersion:
    """One model version of the project; NotFound for any other."""
    found = (
        project.versions.select_related("project", "run__round", "run__training", "promoted_by")
        .filter(pk=pk)
        .first()
    )
    if found is None:
        raise NotFound(_("There is no such model version in this project."))
    return found


def version_samples(version: ModelVersion, limit: int = 6) -> list[Sample]:
    """Its latest answers, one per prompt, with their prompts."""
    first_of_prompt = (
        version.samples.order_by("prompt_id", "-id").distinct("prompt_id").values("pk")
    )
    return list(
        Sample.objects.filter(pk__in=first_of_prompt)
        .select_related("prompt")
        .order_by("-id")[:limit]
    )


def prompts_list(
    project: Project, *, kind: str = "", use_case: str = "", split: str = "", words: str = ""
) -> QuerySet[Prompt]:
    """The project's prompts, newest first, each with ``has_demonstration``."""
    given = {"kind": kind, "use_case": use_case, "split": split}
    found = project.prompts.current().filter(
        **{name: value for name, value in given.items() if value}
    )
    for word in words.split():
        found = found.filter(text__icontains=word)
    written = Demonstration.objects.settled().filter(prompt=OuterRef("pk"))
    return found.annotate(has_demonstration=Exists(written)).order_by("-id")


@dataclass(frozen=True)
class PromptCounts:
    """Prompts that a round may draw from (train and valid): those that fit, and per choice."""

    fitting: int
    train: int
    valid: int
    kinds: dict[str, int]
    use_cases: dict[str, int]


def prompts_fitting(
    project: Project,
    splits: Collection[str],
    kinds: Collection[str] = (),
    use_cases: Collection[str] = (),
) -> QuerySet[Prompt]:
    """The project's prompts of these splits, kinds and use cases (none named: all), by number.

    Of those that labelers wrote only what has settled, in its latest version.
    """
    prompts = Prompt.objects.current().filter(project=project, split__in=splits)
    if kinds:
        prompts = prompts.filter(kind__in=kinds)
    if use_cases:
        prompts = prompts.filter(use_case__in=use_cases)
    return prompts.order_by("pk")


def prompt_counts(
    project: Project, *, kinds: list[str] | None = None, use_cases: list[str] | None = None
) -> PromptCounts:
    """How many prompts fit the choice. A kind is counted within the use cases, and the reverse."""
    rows = list(
        project.prompts.current()
        .filter(split__in=LABELED_SPLITS)
        .order_by()
        .values_list("kind", "use_case", "split")
        .annotate(Count("id"))
    )

    def total(
        kind: str | None = None, use_case: str | None = None, split: str | None = None
    ) -> int:
        return sum(
            count
            for its_kind, its_use_case, its_split, count in rows
            if (its_kind == kind if kind else not kinds or its_kind in kinds)
            and (
                its_use_case == use_case if use_case else not use_cases or its_use_case in use_cases
            )
            and (split is None or its_split == split)
        )

    return PromptCounts(
        fitting=total(),
        train=total(split=Split.TRAIN),
        valid=total(split=Split.VALID),
        kinds={kind: total(kind=kind) for kind in PromptKind.values},
        use_cases={use_case: total(use_case=use_case) for use_case in UseCase.values},
    )


def upload_get(*, project: Project, pk: int) -> Upload:
    """One upload of the project; NotFound for any other."""
    found = project.uploads.select_related("created_by", "project").filter(pk=pk).first()
    if found is None:
        raise NotFound(_("There is no such upload in this project."))
    return found


def instructions_get(*, project: Project, number: int) -> InstructionVersion:
    """The project's instructions of that number; NotFound where there are none."""
    found = project.instructions.select_related("created_by").filter(number=number).first()
    if found is None:
        raise NotFound(
            _("There are no instructions %(number)s in this project.") % {"number": number}
        )
    return found


def instructions_list(project: Project) -> QuerySet[InstructionVersion]:
    """All versions, newest first, each with ``round_count``."""
    found = project.instructions.select_related("created_by")
    return found.annotate(round_count=Count("round")).order_by("-number")


def people_list(project: Project, *, words: str = "") -> QuerySet[Membership]:
    """Members by name, each with ``demonstrations``, ``rankings``, ``votes`` and ``last_label_at``."""
    found = project.memberships.select_related("user")
    for word in words.split():
        found = found.filter(
            Q(user__username__icontains=word)
            | Q(user__first_name__icontains=word)
            | Q(user__last_name__icontains=word)
        )
    done = Q(user__assignments__project=project) & handed_in("user__assignments__")
    return found.annotate(
        demonstrations=Count(
            "user__assignments",
            filter=done & Q(user__assignments__task__kind="demonstration"),
        ),
        rankings=Count(
            "user__assignments", filter=done & Q(user__assignments__task__kind="ranking")
        ),
        votes=Count("user__assignments", filter=done & Q(user__assignments__task__kind="pairwise")),
        last_label_at=Max("user__assignments__ended_at", filter=done),
    ).order_by("user__username")


def member_get(*, project: Project, pk: int) -> Membership:
    """One membership of the project; NotFound for any other."""
    found = project.memberships.select_related("user", "project").filter(pk=pk).first()
    if found is None:
        raise NotFound(_("There is no such person in this project."))
    return found


def invites_open(project: Project) -> list[Invite]:
    """Invites whose link still works, newest first."""
    found = project.invites.select_related("created_by").filter(used_at=None)
    return [invite for invite in found if invite.live]


@dataclass(frozen=True)
class PersonWork:
    """What one person has done in a round."""

    labeler_id: int
    name: str
    simulated: bool
    demonstrations: int
    rankings: int
    votes: int
    in_work: int
    skipped: int
    active_minutes: int
    last_at: datetime | None


def work_by_person(round_: Round) -> list[PersonWork]:
    """Who did how much in a round, most first."""
    state = Assignment.State
    done = handed_in()
    rows = (
        Assignment.objects.filter(task__round=round_)
        .order_by()
        .values(
            "labeler_id",
            "labeler__username",
            "labeler__first_name",
            "labeler__last_name",
            "labeler__simulated",
        )
        .annotate(
            demonstrations=Count("id", filter=done & Q(task__kind="demonstration")),
            rankings=Count("id", filter=done & Q(task__kind="ranking")),
            votes=Count("id", filter=done & Q(task__kind="pairwise")),
            in_work=Count(
                "id", filter=Q(state=state.LEASED) | Q(state=state.SUBMITTED, settles_at__gt=Now())
            ),
            skipped=Count("id", filter=Q(state=state.SKIPPED)),
            active=Sum("active_ms", filter=done, default=0),
            last_at=Max("ended_at", filter=done),
        )
    )
    work = [
        PersonWork(
            labeler_id=row["labeler_id"],
            name=f"{row['labeler__first_name']} {row['labeler__last_name']}".strip()
            or row["labeler__username"],
            simulated=row["labeler__simulated"],
            demonstrations=row["demonstrations"],
            rankings=row["rankings"],
            votes=row["votes"],
            in_work=row["in_work"],
            skipped=row["skipped"],
            active_minutes=round(row["active"] / 60_000),
            last_at=row["last_at"],
        )
        for row in rows
    ]
    return sorted(work, key=lambda one: (-one.demonstrations - one.rankings - one.votes, one.name))


@dataclass(frozen=True)
class LabelCounts:
    """The labels of a project, by who made them."""

    demonstrations: int
    demonstrations_uploaded: int
    demonstrations_simulated: int
    rankings: int
    rankings_simulated: int
    votes: int
    votes_simulated: int
    surplus: int


def label_counts(project: Project) -> LabelCounts:
    """How many labels there are; ``demonstrations``, ``rankings``, ``votes``: people's own only."""
    simulated, uploaded = Q(simulated=True), Q(source=Demonstration.Source.UPLOAD)
    written = project.demonstrations.current().aggregate(
        people=Count("id", filter=~simulated & ~uploaded),
        uploaded=Count("id", filter=uploaded),
        simulated=Count("id", filter=simulated & ~uploaded),
        surplus=Count("id", filter=Q(surplus=True)),
    )
    counted = {
        "people": Count("id", filter=~simulated),
        "simulated": Count("id", filter=simulated),
        "surplus": Count("id", filter=Q(surplus=True)),
    }
    ranked = project.rankings.current().aggregate(**counted)
    voted = project.votes.current().aggregate(**counted)
    return LabelCounts(
        demonstrations=written["people"],
        demonstrations_uploaded=written["uploaded"],
        demonstrations_simulated=written["simulated"],
        rankings=ranked["people"],
        rankings_simulated=ranked["simulated"],
        votes=voted["people"],
        votes_simulated=voted["simulated"],
        surplus=written["surplus"] + ranked["surplus"] + voted["surplus"],
    )


def snapshots_list(project: Project) -> QuerySet[Snapshot]:
    """Snapshots of labels, newest first, each with ``run_count``, the runs made from it."""
    return (
        project.snapshots.exclude(kind=Snapshot.Kind.PROMPTS)
        .select_related("created_by")
        .annotate(run_count=Count("used_by"))
        .order_by("-created_at", "-id")
    )


def snapshot_get(*, project: Project, name: str) -> Snapshot:
    """The project's snapshot of that name; NotFound where there is none."""
    found = project.snapshots.select_related("project").filter(name=name).first()
    if found is None:
        raise NotFound(_("There is no such snapshot in this project."))
    return found


def training_versions(training: Training) -> list[ModelVersion]:
    """What a training made, the latest first."""
    found = ModelVersion.objects.filter(run__training=training).select_related("run")
    return list(found.order_by("-created_at", "-id"))


def training_snapshots(training: Training) -> list[Snapshot]:
    """The frozen labels that went into a training."""
    found = Snapshot.objects.filter(used_by__run__training=training)
    return list(found.exclude(kind=Snapshot.Kind.PROMPTS).distinct().order_by("-kind"))
