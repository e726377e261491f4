"""Labeling rounds and the trainings that follow them."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from labelapp.models.people import User
from labelapp.models.projects import InstructionVersion, Project
from labelapp.models.prompts import Split
from labelapp.models.rating_fields import RATING_FIELDS, RatingField

PROMPTS_WANTED = ("plain_prompts_wanted", "few_shot_prompts_wanted", "user_prompts_wanted")
"""Fields of a round: how many prompts of each kind labelers are to write."""

RANGES: dict[str, tuple[float, float]] = {
    "demonstrations_wanted": (0, 100_000),
    "rankings_wanted": (0, 100_000),
    "plain_prompts_wanted": (0, 10_000),
    "few_shot_prompts_wanted": (0, 10_000),
    "user_prompts_wanted": (0, 10_000),
    "pairs_wanted": (0, 100_000),
    "k": (2, 9),
    "temperature": (0, 2),
    "max_new_tokens": (1, 4096),
    "overlap": (1, 20),
    "overlap_tasks": (0, 100_000),
    "random_share": (0, 1),
    "extra_overlap": (0, 20),
    "disagreement": (0, 1),
    "quota": (1, 1_000_000),
    "weight": (0, 100),  # of each kind of task
}
"""What the numbers of a round may be: the form and the services ask here."""


class Round(models.Model):
    """One labeling round: who answers, how, and how many labelers look at each task."""

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        CLOSED = "closed", _("Closed")

    class Order(models.TextChoices):
        SEQUENTIAL = "sequential", _("As the prompts were uploaded")
        RANDOM = "random", _("Drawn at random")
        ACTIVE = "active", _("Where judges disagree most")

    project = models.ForeignKey(Project, models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    order = models.CharField(
        max_length=10, choices=Order, default=Order.RANDOM, help_text="In which tasks come."
    )
    random_share = models.FloatField(
        default=0.2, help_text="In active order: share of claims that are drawn at random."
    )
    policy = models.ForeignKey(
        "labelapp.ModelVersion", models.PROTECT, related_name="rounds", help_text="Who answers."
    )
    instructions = models.ForeignKey(InstructionVersion, models.PROTECT)
    kinds = ArrayField(models.CharField(max_length=16), default=list, help_text="Empty: all.")
    use_cases = ArrayField(models.CharField(max_length=16), default=list, help_text="Empty: all.")
    demonstrations_wanted = models.PositiveIntegerField(default=0, help_text="Tasks of that kind.")
    rankings_wanted = models.PositiveIntegerField(default=0, help_text="Tasks of that kind.")
    plain_prompts_wanted = models.PositiveIntegerField(default=0, help_text="To be written.")
    few_shot_prompts_wanted = models.PositiveIntegerField(default=0, help_text="To be written.")
    user_prompts_wanted = models.PositiveIntegerField(default=0, help_text="To be written.")
    stated_use_cases = ArrayField(
        models.CharField(max_length=500),
        default=list,
        blank=True,
        help_text="What user-based prompts are written for, in turn.",
    )
    pairs_wanted = models.PositiveIntegerField(
        default=0, help_text="Tasks in which an answer of the policy is compared with another's."
    )
    opponent = models.ForeignKey(
        "labelapp.ModelVersion",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="opposed",
        help_text="Whom the policy is compared with.",
    )
    pairs_split = models.CharField(
        max_length=8, choices=Split, default=Split.TEST, help_text="Whose prompts pairs answer."
    )
    reveal = models.BooleanField(
        default=False,
        help_text="Once a vote counts, its labeler sees which version wrote which, and the vote is locked.",
    )
    k = models.PositiveSmallIntegerField(default=4, help_text="Answers per ranking task, 2 to 9.")
    temperature = models.FloatField(default=1.0)
    max_new_tokens = models.PositiveIntegerField(default=128, help_text="Longest answer, tokens.")
    overlap = models.PositiveSmallIntegerField(default=1, help_text="Labelers per ranking task.")
    overlap_tasks = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Ranking tasks with that overlap, the rest have 1; empty: all.",
    )
    write_first = models.BooleanField(
        default=False, help_text="Labelers write their own answer before they see those to rank."
    )
    extra_overlap = models.PositiveSmallIntegerField(
        default=0, help_text="More labelers for a ranking task where the first disagree, at most."
    )
    disagreement = models.FloatField(
        default=0.3, help_text="Kendall distance, 0 to 1, above which one more is asked."
    )
    quota = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most tasks that one labeler hands in; empty: no limit."
    )
    kind_weights = models.JSONField(
        default=dict, blank=True, help_text="Share of each kind of task in turn; missing is 1."
    )
    rating_fields = ArrayField(
        models.CharField(max_length=16),
        default=list,
        help_text="What is asked of each answer before the ranking. Empty: answers are only ranked.",
    )
    ratings_required = models.BooleanField(
        default=False, help_text="A ranking is only taken with an overall rating of each answer."
    )
    strength_asked = models.BooleanField(
        default=False, help_text="Ask how much better the best answer is than the worst."
    )
    live_prompting = models.BooleanField(
        default=False, help_text="Labelers may write prompts and get answers at once."
    )
    seed = models.PositiveIntegerField(default=0)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "number"], name="round_number"),
            models.UniqueConstraint(
                fields=["project"], condition=Q(state="open"), name="round_one_open"
            ),
            models.CheckConstraint(
                condition=Q(user_prompts_wanted=0) | Q(stated_use_cases__len__gte=1),
                name="round_use_cases_for_user_prompts",
            ),
            models.CheckConstraint(
                condition=Q(pairs_wanted=0) | Q(opponent__isnull=False),
                name="round_opponent_of_pairs",
            ),
            models.CheckConstraint(
                condition=Q(opponent__isnull=True) | ~Q(opponent=F("policy")),
                name="round_opponent_is_another",
            ),
            models.CheckConstraint(
                condition=Q(pairs_split__in=Split.values), name="round_pairs_split"
            ),
            models.CheckConstraint(condition=Q(k__gte=2) & Q(k__lte=9), name="round_k"),
            models.CheckConstraint(condition=Q(temperature__gte=0), name="round_temperature"),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="round_overlap"),
            models.CheckConstraint(condition=Q(max_new_tokens__gte=1), name="round_max_new_tokens"),
            models.CheckConstraint(
                condition=Q(disagreement__gte=0) & Q(disagreement__lte=1),
                name="round_disagreement",
            ),
            models.CheckConstraint(condition=Q(quota__gte=1), name="round_quota"),
            models.CheckConstraint(
                condition=Q(order__in=["sequential", "random", "active"]), name="round_order"
            ),
            models.CheckConstraint(
                condition=Q(random_share__gte=0) & Q(random_share__lte=1),
                name="round_random_share",
            ),
            models.CheckConstraint(
                condition=Q(rating_fields__contained_by=list(RATING_FIELDS)),
                name="round_rating_fields",
            ),
            models.CheckConstraint(
                condition=Q(ratings_required=False)
                | Q(rating_fields__contains=[RatingField.OVERALL.value]),
                name="round_ratings_required",
            ),
        ]

    def __str__(self) -> str:
        return f"round {self.number} of {self.project}"

    @property
    def prompts_wanted(self) -> int:
        """Prompts of any kind that are to be written."""
        return self.plain_prompts_wanted + self.few_shot_prompts_wanted + self.user_prompts_wanted


class Training(models.Model):
    """One press of the button: SFT, then the reward model, then PPO, on a round's labels."""

    class State(models.TextChoices):
        ACTIVE = "active", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Stopped")

    project = models.ForeignKey(Project, models.CASCADE, related_name="trainings")
    round = models.ForeignKey(Round, models.PROTECT, related_name="trainings")
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    include_simulated = models.BooleanField(default=False)
    profile = models.CharField(max_length=32, help_text="Named stage settings it ran with.")
    started_by = models.ForeignKey(User, models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["project"], condition=Q(state="active"), name="training_one_active"
            ),
        ]

    def __str__(self) -> str:
        return f"training on {self.round}"
