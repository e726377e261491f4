"""What was frozen, what ran, and what came out: snapshots, runs, model versions."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from labelapp.models.people import User
from labelapp.models.projects import Project
from labelapp.models.rounds import Round, Training


class Snapshot(models.Model):
    """Frozen rows in a folder that is named by its content."""

    class Kind(models.TextChoices):
        DEMONSTRATIONS = "demonstrations", _("Demonstrations")
        COMPARISONS = "comparisons", _("Comparisons")
        PROMPTS = "prompts", _("Prompts")
        VOTES = "votes", _("Votes on pairs")

    project = models.ForeignKey(Project, models.CASCADE, related_name="snapshots")
    kind = models.CharField(max_length=16, choices=Kind)
    name = models.CharField(max_length=80, help_text="<kind>-<hash>; also the folder's name.")
    sha256 = models.CharField(max_length=64, help_text="Of the rows file.")
    rows = models.PositiveIntegerField()
    include_simulated = models.BooleanField(default=False)
    demonstrations = models.ManyToManyField("labelapp.Demonstration", related_name="snapshots")
    rankings = models.ManyToManyField("labelapp.Ranking", related_name="snapshots")
    votes = models.ManyToManyField("labelapp.Vote", related_name="snapshots")
    created_by = models.ForeignKey(User, models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "name"], name="snapshot_name"),
        ]

    def __str__(self) -> str:
        return self.name


class Run(models.Model):
    """One stage of the trainer: a queued row, then a leased one, then a folder."""

    class Stage(models.TextChoices):
        BASE = "base", _("Base model")
        TEXT = "text", _("Pretraining text")
        SAMPLE = "sample", _("Answers")
        SFT = "sft", _("SFT")
        REWARD = "reward", _("Reward model")
        PPO = "ppo", _("PPO-ptx")
        LIVE = "live", _("Live answers")
        SCORE = "score", _("Scores")

    class State(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Stopped")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="runs")
    stage = models.CharField(max_length=8, choices=Stage)
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    round = models.ForeignKey(Round, models.PROTECT, null=True, related_name="runs")
    training = models.ForeignKey(Training, models.PROTECT, null=True, related_name="runs")
    for_pairs = models.BooleanField(
        default=False, help_text="Its answers are one side of the round's pairs."
    )
    settings = models.JSONField(default=dict, help_text="Stage settings without folders.")
    step = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    figures = models.JSONField(default=dict, help_text="Last logged values.")
    error = models.TextField(blank=True, help_text="Why it failed, in a sentence.")
    attempt = models.PositiveIntegerField(default=0)
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    worker = models.CharField(max_length=200, blank=True, help_text="Who runs it.")
    cancel_requested = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=~Q(state="running")
                | Q(lease_token__isnull=False, lease_until__isnull=False),
                name="run_running_is_leased",
            ),
            models.CheckConstraint(
                condition=~Q(state="failed") | ~Q(error=""), name="run_failed_says_why"
            ),
            models.CheckConstraint(
                condition=Q(for_pairs=False) | Q(stage="sample", round__isnull=False),
                name="run_for_pairs",
            ),
            models.UniqueConstraint(
                fields=["round"], condition=Q(stage="live"), name="run_one_live_a_round"
            ),
            models.CheckConstraint(
                condition=~Q(stage="live") | Q(state="done", round__isnull=False),
                name="run_live_is_done",
            ),
            models.CheckConstraint(
                condition=~Q(stage="score") | Q(round__isnull=False), name="run_score_of_a_round"
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["created_at"], condition=Q(state__in=["queued", "running"]), name="run_live"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.stage} run {self.pk}"

    @property
    def fraction(self) -> float:
        """How far it is, 0 to 1."""
        if self.state == self.State.DONE:
            return 1.0
        return min(self.step / self.total, 1.0) if self.total else 0.0

    @property
    def abandoned(self) -> bool:
        """Running by name, but its worker has not been heard of."""
        lease_until = self.lease_until
        return (
            self.state == self.State.RUNNING
            and lease_until is not None
            and lease_until <= timezone.now()
        )


class ModelVersion(models.Model):
    """A model in the registry, in Hugging Face format. The base model is one too."""

    class Role(models.TextChoices):
        POLICY = "policy", _("Policy")
        REWARD = "reward", _("Reward model")

    class State(models.TextChoices):
        CANDIDATE = "candidate", _("Candidate")
        CURRENT = "current", _("Current")
        RETIRED = "retired", _("Retired")
        REFUSED = "refused", _("Refused")

    project = models.ForeignKey(Project, models.CASCADE, related_name="versions")
    role = models.CharField(max_length=8, choices=Role)
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.CANDIDATE)
    run = models.OneToOneField(Run, models.PROTECT, related_name="version")
    sha256 = models.CharField(max_length=64, help_text="Of the run folder's manifest files.")
    metrics = models.JSONField(default=dict)
    notes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    promoted_by = models.ForeignKey(User, models.SET_NULL, null=True)
    promoted_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "role", "number"], name="version_number"),
            models.UniqueConstraint(
                fields=["project", "role"],
                condition=Q(state="current"),
                name="version_one_current",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role}-{self.number}"


class RunInput(models.Model):
    """What a run is made from: a snapshot, a version, or the output of a run still to come."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="inputs")
    role = models.CharField(max_length=20, help_text="policy, reward, comparisons, prompts, ...")
    snapshot = models.ForeignKey(Snapshot, models.PROTECT, null=True, related_name="used_by")
    version = models.ForeignKey(ModelVersion, models.PROTECT, null=True, related_name="used_by")
    source = models.ForeignKey(Run, models.PROTECT, null=True, related_name="feeds")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "role"], name="input_role_once"),
            models.CheckConstraint(
                condition=Q(snapshot__isnull=False, version__isnull=True, source__isnull=True)
                | Q(snapshot__isnull=True, version__isnull=False, source__isnull=True)
                | Q(snapshot__isnull=True, version__isnull=True, source__isnull=False),
                name="input_exactly_one",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} of {self.run}"


class WorkerSign(models.Model):
    """The last sign of life of a worker process."""

    class Kind(models.TextChoices):
        WORKER = "worker", _("Worker")
        GPU = "worker-gpu", "GPU worker"
        BEAT = "beat", _("Beat")

    kind = models.CharField(max_length=12, choices=Kind)
    host = models.CharField(max_length=200)
    seen_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["kind", "host"], name="sign_once"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} on {self.host}"
