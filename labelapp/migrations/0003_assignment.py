"""Claims that cost the same however many tasks there are: indexes, and where each labeler stands."""

import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.comparison
import uuid
from typing import ClassVar

from django.conf import settings
from django.db import migrations, models


FORWARDS = """
CREATE OR REPLACE FUNCTION labelapp_task_counters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    taken_by integer := 0;
    submitted_by integer := 0;
    handed_in_by integer := 0;
    assigned record;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        taken_by := taken_by - (OLD.state IN ('leased', 'submitted'))::int;
        submitted_by := submitted_by - (OLD.state = 'submitted')::int;
        handed_in_by := handed_in_by - (OLD.state IN ('submitted', 'surplus'))::int;
        assigned := OLD;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        taken_by := taken_by + (NEW.state IN ('leased', 'submitted'))::int;
        submitted_by := submitted_by + (NEW.state = 'submitted')::int;
        handed_in_by := handed_in_by + (NEW.state IN ('submitted', 'surplus'))::int;
        assigned := NEW;
    END IF;
    IF taken_by <> 0 OR submitted_by <> 0 THEN
        UPDATE labelapp_task
           SET taken = taken + taken_by, submitted = submitted + submitted_by
         WHERE id = assigned.task_id;
    END IF;
    IF handed_in_by > 0 THEN
        INSERT INTO labelapp_standing AS standing (round_id, labeler_id, kind, handed_in, reached)
        SELECT round_id, assigned.labeler_id, kind, handed_in_by, 0
          FROM labelapp_task WHERE id = assigned.task_id
        ON CONFLICT (round_id, labeler_id, kind)
        DO UPDATE SET handed_in = standing.handed_in + EXCLUDED.handed_in;
    ELSIF handed_in_by < 0 THEN
        UPDATE labelapp_standing AS standing
           SET handed_in = handed_in + handed_in_by
          FROM labelapp_task AS task
         WHERE task.id = assigned.task_id AND standing.round_id = task.round_id
           AND standing.labeler_id = assigned.labeler_id AND standing.kind = task.kind;
    END IF;
    RETURN NULL;
END $$;

INSERT INTO labelapp_standing (round_id, labeler_id, kind, handed_in, reached)
SELECT task.round_id, assignment.labeler_id, task.kind, count(*), 0
  FROM labelapp_assignment AS assignment
  JOIN labelapp_task AS task ON task.id = assignment.task_id
 WHERE assignment.state IN ('submitted', 'surplus')
 GROUP BY 1, 2, 3;
"""

BACKWARDS = """
CREATE OR REPLACE FUNCTION labelapp_task_counters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    taken_by integer := 0;
    submitted_by integer := 0;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        taken_by := taken_by - (OLD.state IN ('leased', 'submitted'))::int;
        submitted_by := submitted_by - (OLD.state = 'submitted')::int;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        taken_by := taken_by + (NEW.state IN ('leased', 'submitted'))::int;
        submitted_by := submitted_by + (NEW.state = 'submitted')::int;
    END IF;
    IF taken_by <> 0 OR submitted_by <> 0 THEN
        UPDATE labelapp_task
           SET taken = taken + taken_by, submitted = submitted + submitted_by
         WHERE id = COALESCE(NEW.task_id, OLD.task_id);
    END IF;
    RETURN NULL;
END $$;
"""


class Migration(migrations.Migration):
    dependencies: ClassVar = [
        ("labelapp", "0002_task_counters"),
    ]

    operations: ClassVar = [
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "scope",
                    models.CharField(
                        choices=[("label", "Take and hand in tasks")],
                        default="label",
                        max_length=16,
                    ),
                ),
                ("token_sha256", models.CharField(max_length=64, unique=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("expires_at", models.DateTimeField()),
                ("revoked_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ["-created_at"],
            },
        ),
        migrations.CreateModel(
            name="Standing",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("kind", models.CharField(max_length=16)),
                ("handed_in", models.PositiveIntegerField(default=0, editable=False)),
                ("reached", models.PositiveIntegerField(default=0)),
            ],
            options={
                "ordering": ["round", "labeler", "kind"],
            },
        ),
        migrations.RemoveIndex(
            model_name="task",
            name="task_next",
        ),
        migrations.AddField(
            model_name="assignment",
            name="token",
            field=models.UUIDField(
                default=uuid.uuid4,
                editable=False,
                help_text="Of the lease: a new lease, a new token.",
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="disagreement",
            field=models.FloatField(
                default=0.3, help_text="Kendall distance, 0 to 1, above which one more is asked."
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="extra_overlap",
            field=models.PositiveSmallIntegerField(
                default=0,
                help_text="More labelers for a ranking task where the first disagree, at most.",
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="kind_weights",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="Share of each kind of task in turn; missing is 1.",
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="order",
            field=models.CharField(
                choices=[
                    ("sequential", "As the prompts were uploaded"),
                    ("random", "Drawn at random"),
                    ("active", "Where judges disagree most"),
                ],
                default="random",
                help_text="In which tasks come.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="quota",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Most tasks that one labeler hands in; empty: no limit.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="random_share",
            field=models.FloatField(
                default=0.2, help_text="In active order: share of claims that are drawn at random."
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="claimable",
            field=models.GeneratedField(
                db_persist=True,
                expression=models.Q(("state", "open"), ("taken__lt", models.F("overlap"))),
                output_field=models.BooleanField(),
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="extra",
            field=models.PositiveSmallIntegerField(
                default=0,
                editable=False,
                help_text="Of the overlap: added because labelers disagreed.",
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="nearly_done",
            field=models.GeneratedField(
                db_persist=True,
                expression=models.Q(
                    ("state", "open"),
                    ("taken__lt", models.F("overlap")),
                    ("submitted__gt", 0),
                    (
                        "taken__gte",
                        django.db.models.expressions.CombinedExpression(
                            models.F("overlap"),
                            "-",
                            django.db.models.functions.comparison.Greatest(
                                1,
                                django.db.models.expressions.CombinedExpression(
                                    models.F("overlap"), "/", models.Value(4)
                                ),
                            ),
                        ),
                    ),
                ),
                output_field=models.BooleanField(),
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="priority",
            field=models.FloatField(
                default=0,
                help_text="In rounds of active order: how much is to be learned; highest first.",
            ),
        ),
        migrations.AddIndex(
            model_name="assignment",
            index=models.Index(
                condition=models.Q(("state__in", ["submitted", "surplus"])),
                fields=["labeler", "project", "ended_at"],
                name="assignment_handed_in",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("claimable", True)),
                fields=["round", "kind", "position"],
                name="task_next",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("nearly_done", True)),
                fields=["round", "kind", "position"],
                name="task_nearly_done",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("round"),
                models.F("kind"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("position"),
                condition=models.Q(("claimable", True), ("priority__gt", 0)),
                name="task_priority",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("state", "waiting")), fields=["round"], name="task_waiting"
            ),
        ),
        migrations.AddConstraint(
            model_name="round",
            constraint=models.CheckConstraint(
                condition=models.Q(("disagreement__gte", 0), ("disagreement__lte", 1)),
                name="round_disagreement",
            ),
        ),
        migrations.AddConstraint(
            model_name="round",
            constraint=models.CheckConstraint(
                condition=models.Q(("quota__gte", 1)), name="round_quota"
            ),
        ),
        migrations.AddConstraint(
            model_name="round",
            constraint=models.CheckConstraint(
                condition=models.Q(("order__in", ["sequential", "random", "active"])),
                name="round_order",
            ),
        ),
        migrations.AddConstraint(
            model_name="round",
            constraint=models.CheckConstraint(
                condition=models.Q(("random_share__gte", 0), ("random_share__lte", 1)),
                name="round_random_share",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(("extra__lt", models.F("overlap"))), name="task_extra"
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(("priority__gte", 0)), name="task_priority_positive"
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="project",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="tokens",
                to="labelapp.project",
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="user",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="tokens",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="standing",
            name="labeler",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="standings",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="standing",
            name="round",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="standings",
                to="labelapp.round",
            ),
        ),
        migrations.AddConstraint(
            model_name="apitoken",
            constraint=models.CheckConstraint(
                condition=models.Q(("scope__in", ["label"])), name="token_scope"
            ),
        ),
        migrations.AddConstraint(
            model_name="standing",
            constraint=models.UniqueConstraint(
                fields=("round", "labeler", "kind"), name="standing_once"
            ),
        ),
        migrations.RunSQL(FORWARDS, BACKWARDS),
    ]
