"""Tasks and who works on them. Rows are the queue."""

import uuid
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest, Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.prompts import Prompt, PromptKind
from labelapp.models.rounds import Round

LETTERS = "ABCDEFGHI"  # the names of up to nine answers on a page, in shown order


class Task(models.Model):
    """Something to be labeled by ``overlap`` labelers.

    ``taken`` (leased or submitted) and ``submitted`` are kept by a database trigger on
    assignments, and a constraint refuses more than ``overlap``: never write them from Python.
    ``claimable`` has a free place; ``nearly_done`` has few of them left, and a label already.
    """

    class Kind(models.TextChoices):
        DEMONSTRATION = "demonstration", _("Demonstration")
        RANKING = "ranking", _("Ranking")
        PROMPT = "prompt", _("Prompt to write")
        PAIRWISE = "pairwise", _("Pair to compare")

    ANSWERED: ClassVar = (Kind.RANKING, Kind.PAIRWISE)
    """Kinds in which answers of models are judged."""

    class State(models.TextChoices):
        WAITING = "waiting", _("Waiting for answers")
        OPEN = "open", _("Open")
        CLOSED = "closed", _("Closed")

    project = models.ForeignKey(Project, models.CASCADE, related_name="tasks")
    round = models.ForeignKey(Round, models.PROTECT, related_name="tasks")
    # Null where a prompt is to be written, and there only: the other kinds read it without asking.
    prompt: "models.ForeignKey[Prompt | None, Prompt]" = models.ForeignKey(  # type: ignore[assignment, misc]
        Prompt, models.PROTECT, null=True, related_name="tasks"
    )
    kind = models.CharField(max_length=16, choices=Kind)
    asked_kind = models.CharField(
        max_length=16, choices=PromptKind, blank=True, help_text="Of the prompt to be written."
    )
    brief = models.TextField(blank=True, help_text="The use case that a user-based one is for.")
    state = models.CharField(max_length=8, choices=State)
    overlap = models.PositiveSmallIntegerField(default=1)
    taken = models.PositiveSmallIntegerField(default=0, editable=False)
    submitted = models.PositiveSmallIntegerField(default=0, editable=False)
    position = models.PositiveIntegerField(help_text="Order within the round.")
    priority = models.FloatField(
        default=0, help_text="In rounds of active order: how much is to be learned; highest first."
    )
    extra = models.PositiveSmallIntegerField(
        default=0, editable=False, help_text="Of the overlap: added because labelers disagreed."
    )
    compare_at = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When its last ranking has settled: then its rankings are compared.",
    )
    claimable = models.GeneratedField(
        expression=Q(state="open") & Q(taken__lt=F("overlap")),  # type: ignore[arg-type]
        output_field=models.BooleanField(),
        db_persist=True,
    )
    nearly_done = models.GeneratedField(
        expression=Q(state="open")  # type: ignore[arg-type]
        & Q(taken__lt=F("overlap"))
        & Q(submitted__gt=0)
        & Q(taken__gte=F("overlap") - Greatest(1, F("overlap") / 4)),
        output_field=models.BooleanField(),
        db_persist=True,
    )

    class Meta:
        ordering: ClassVar = ["round", "kind", "position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["round", "kind", "prompt"], name="task_once"),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="task_overlap"),
            models.CheckConstraint(condition=Q(extra__lt=F("overlap")), name="task_extra"),
            models.CheckConstraint(condition=Q(priority__gte=0), name="task_priority_positive"),
            models.CheckConstraint(
                condition=Q(kind="prompt", prompt__isnull=True, asked_kind__in=PromptKind.values)
                | Q(prompt__isnull=False, asked_kind="") & ~Q(kind="prompt"),
                name="task_prompt_or_asked",
            ),
            models.CheckConstraint(
                condition=Q(asked_kind="user") & ~Q(brief="") | ~Q(asked_kind="user") & Q(brief=""),
                name="task_brief_of_user",
            ),
            models.CheckConstraint(condition=Q(taken__lte=F("overlap")), name="task_not_overfull"),
            models.CheckConstraint(
                condition=Q(submitted__lte=F("taken")), name="task_submitted_within_taken"
            ),
        ]
        # conditions on generated columns: a counter that moves without closing the task touches
        # no index, so the row is rewritten in place
        indexes: ClassVar = [
            models.Index(
                fields=["round", "kind", "position"], condition=Q(claimable=True), name="task_next"
            ),
            models.Index(
                fields=["round", "kind", "position"],
                condition=Q(nearly_done=True),
                name="task_nearly_done",
            ),
            models.Index(
                "round",
                "kind",
                F("priority").desc(),
                "position",
                condition=Q(claimable=True) & Q(priority__gt=0),
                name="task_priority",
            ),
            models.Index(fields=["round"], condition=Q(state="waiting"), name="task_waiting"),
            models.Index(
                fields=["compare_at"],
                condition=Q(compare_at__isnull=False),
                name="task_compare",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} task {self.pk}"


def handed_in(prefix: str = "") -> Q:
    """Assignments whose label counts: handed in, and no longer to be taken back."""
    return Q(**{f"{prefix}state__in": Assignment.HANDED_IN}) & ~Q(
        **{f"{prefix}settles_at__gt": Now()}
    )


class AssignmentQuerySet(models.QuerySet["Assignment"]):
    def live(self) -> "AssignmentQuerySet":
        """Leased and not yet run out."""
        return self.filter(state=Assignment.State.LEASED, lease_until__gt=timezone.now())

    def lapsed(self) -> "AssignmentQuerySet":
        """Still marked as leased though the lease ran out."""
        return self.filter(state=Assignment.State.LEASED, lease_until__lte=timezone.now())

    def settled(self) -> "AssignmentQuerySet":
        """Handed in, and no longer to be taken back."""
        return self.filter(handed_in())

    def unsettled(self) -> "AssignmentQuerySet":
        """Submitted a moment ago: the label may still be taken back and counts for nobody."""
        return self.filter(
            state=Assignment.State.SUBMITTED, undo_until__gt=Now(), settles_at__gt=Now()
        )


class Assignment(models.Model):
    """One labeler's piece of work on one task; born at the claim, it keeps the draft."""

    class State(models.TextChoices):
        LEASED = "leased", _("In work")
        SUBMITTED = "submitted", _("Submitted")
        SURPLUS = "surplus", _("Submitted late, kept beside")
        LAPSED = "lapsed", _("Lapsed")
        SKIPPED = "skipped", _("Skipped")

    HANDED_IN: ClassVar = (State.SUBMITTED, State.SURPLUS)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="assignments")
    task = models.ForeignKey(Task, models.PROTECT, related_name="assignments")
    labeler = models.ForeignKey(User, models.PROTECT, related_name="assignments")
    state = models.CharField(max_length=10, choices=State, default=State.LEASED)
    token = models.UUIDField(
        default=uuid.uuid4, editable=False, help_text="Of the lease: a new lease, a new token."
    )
    lease_until = models.DateTimeField()
    shown_order = ArrayField(
        models.BigIntegerField(), default=list, help_text="Sample ids as this labeler sees them."
    )
    draft = models.JSONField(default=dict)
    draft_saved_at = models.DateTimeField(null=True)
    active_ms = models.PositiveIntegerField(default=0)
    idle_ms = models.PositiveIntegerField(
        default=0, help_text="Page open, but no sign of the person, or behind another."
    )
    skip_reason = models.CharField(max_length=200, blank=True)
    claimed_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)
    settles_at = models.DateTimeField(null=True, help_text="When its first label begins to count.")
    undo_until = models.DateTimeField(
        null=True, help_text="Until then its latest label can be taken back."
    )
    withdrawn_ids = ArrayField(
        models.UUIDField(), default=list, help_text="Client ids of labels that were taken back."
    )
    correcting_since = models.DateTimeField(
        null=True, help_text="Handed in, and open again for the next version of its label."
    )

    objects = AssignmentQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-claimed_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["task", "labeler"], name="assignment_once"),
            models.CheckConstraint(
                condition=Q(correcting_since__isnull=True) | Q(state__in=["submitted", "surplus"]),
                name="assignment_correcting",
            ),
            models.CheckConstraint(
                condition=~Q(state="skipped") | ~Q(skip_reason=""), name="assignment_skip_reason"
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["labeler", "project"], condition=Q(state="leased"), name="assignment_own"
            ),
            models.Index(
                fields=["undo_until"],
                condition=Q(undo_until__isnull=False),
                name="assignment_undo",
            ),
            models.Index(
                fields=["labeler", "project", "-ended_at"],
                condition=Q(state__in=["submitted", "surplus"]),
                name="assignment_history",
            ),
            models.Index(
                fields=["lease_until"], condition=Q(state="leased"), name="assignment_lapsing"
            ),
            models.Index(
                fields=["labeler", "project", "ended_at"],
                condition=Q(state__in=["submitted", "surplus"]),
                name="assignment_handed_in",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task} with {self.labeler}"

    @property
    def owes_own_answer(self) -> bool:
        """Whether the answers to rank stay hidden until this labeler has written one."""
        if self.task.kind != Task.Kind.RANKING or not self.task.round.write_first:
            return False
        return not self.labeler.demonstrations.filter(assignment=self).exists()

    @property
    def writable(self) -> bool:
        """Whether its page takes a draft and a submit: in work, lapsed, or being corrected."""
        return (
            self.state in (self.State.LEASED, self.State.LAPSED)
            or self.correcting_since is not None
        )


class Standing(models.Model):
    """Where one labeler stands in one round with one kind of task.

    ``handed_in`` (submitted or surplus) is kept by the trigger on assignments. ``reached`` is the
    position from which the labeler's next task is looked for: what lies before it was theirs or
    was full, so that a claim need not pass over it again.
    """

    round = models.ForeignKey(Round, models.CASCADE, related_name="standings")
    labeler = models.ForeignKey(User, models.CASCADE, related_name="standings")
    kind = models.CharField(max_length=16)
    handed_in = models.PositiveIntegerField(default=0, editable=False)
    reached = models.PositiveIntegerField(default=0)

    class Meta:
        ordering: ClassVar = ["round", "labeler", "kind"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["round", "labeler", "kind"], name="standing_once"),
        ]

    def __str__(self) -> str:
        return f"{self.handed_in} {self.kind} tasks of {self.labeler} in {self.round}"
