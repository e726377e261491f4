"""What reward models think of a round's answers: one score for a sample and a reward model."""

import django.db.models.deletion
from django.db import migrations, models

# A score is by a reward model, brought in by a run that scores, and all three are of one project.
GUARD = """
CREATE FUNCTION labelapp_score_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM labelapp_sample s
          JOIN labelapp_modelversion v ON v.project_id = s.project_id
          JOIN labelapp_run r ON r.project_id = s.project_id
         WHERE s.id = NEW.sample_id
           AND v.id = NEW.version_id AND v.role = 'reward'
           AND r.id = NEW.run_id AND r.stage = 'score'
    ) THEN
        RAISE EXCEPTION 'a score is by a reward model of the sample''s project'
              USING ERRCODE = 'check_violation', CONSTRAINT = 'score_by_reward_model';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER labelapp_score_allowed BEFORE INSERT OR UPDATE ON labelapp_samplescore
FOR EACH ROW EXECUTE FUNCTION labelapp_score_guard();
"""

UNGUARD = """
DROP TRIGGER labelapp_score_allowed ON labelapp_samplescore;
DROP FUNCTION labelapp_score_guard();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("labelapp", "0011_claim"),
    ]

    operations = [
        migrations.AlterField(
            model_name="run",
            name="stage",
            field=models.CharField(
                choices=[
                    ("base", "Base model"),
                    ("text", "Pretraining text"),
                    ("sample", "Answers"),
                    ("sft", "SFT"),
                    ("reward", "Reward model"),
                    ("ppo", "PPO-ptx"),
                    ("live", "Live answers"),
                    ("score", "Scores"),
                ],
                max_length=8,
            ),
        ),
        migrations.AddConstraint(
            model_name="run",
            constraint=models.CheckConstraint(
                condition=~models.Q(stage="score") | models.Q(round__isnull=False),
                name="run_score_of_a_round",
            ),
        ),
        migrations.CreateModel(
            name="SampleScore",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("score", models.FloatField()),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="scores",
                        to="labelapp.run",
                    ),
                ),
                (
                    "sample",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="scores",
                        to="labelapp.sample",
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="scores",
                        to="labelapp.modelversion",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.UniqueConstraint(fields=("sample", "version"), name="score_once"),
                    models.CheckConstraint(
                        condition=models.Q(score__gt=float("-inf"), score__lt=float("inf")),
                        name="score_finite",
                    ),
                ],
            },
        ),
        migrations.RunSQL(GUARD, UNGUARD),
    ]
