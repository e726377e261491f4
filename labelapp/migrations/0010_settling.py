"""Prompts that labelers write settle as labels do; rankings are compared once they have settled."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now

# As of labels: a settled one is never deleted, none is rewritten, a version follows the one before.
GUARD = """
CREATE TRIGGER labelapp_prompt_kept BEFORE DELETE ON labelapp_prompt
FOR EACH ROW WHEN (OLD.assignment_id IS NOT NULL) EXECUTE FUNCTION labelapp_label_kept();
CREATE TRIGGER labelapp_prompt_same BEFORE UPDATE ON labelapp_prompt
FOR EACH ROW WHEN (
    OLD.assignment_id IS NOT NULL AND
    (OLD.text, OLD.parts, OLD.kind, OLD.use_case, OLD.assignment_id, OLD.version)
    IS DISTINCT FROM (NEW.text, NEW.parts, NEW.kind, NEW.use_case, NEW.assignment_id, NEW.version))
EXECUTE FUNCTION labelapp_label_kept();
CREATE TRIGGER labelapp_prompt_chain BEFORE INSERT ON labelapp_prompt
FOR EACH ROW WHEN (NEW.version > 1) EXECUTE FUNCTION labelapp_label_chain();
"""

UNGUARD = """
DROP TRIGGER labelapp_prompt_kept ON labelapp_prompt;
DROP TRIGGER labelapp_prompt_same ON labelapp_prompt;
DROP TRIGGER labelapp_prompt_chain ON labelapp_prompt;
"""


def settles_at() -> models.DateTimeField:
    return models.DateTimeField(
        db_default=Now(), help_text="From then on it counts, and cannot be taken back."
    )


def version() -> models.PositiveSmallIntegerField:
    return models.PositiveSmallIntegerField(db_default=1, default=1)


class Migration(migrations.Migration):
    dependencies = [
        ("labelapp", "0009_language"),
    ]

    operations = [
        migrations.AddField("prompt", "settles_at", settles_at()),
        migrations.AddField("prompt", "version", version()),
        migrations.AddField(
            model_name="prompt",
            name="corrects",
            field=models.ForeignKey(
                help_text="The first version, which is kept.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="corrections",
                to="labelapp.prompt",
            ),
        ),
        migrations.AlterField("demonstration", "settles_at", settles_at()),
        migrations.AlterField("demonstration", "version", version()),
        migrations.AlterField("ranking", "settles_at", settles_at()),
        migrations.AlterField("ranking", "version", version()),
        migrations.AlterField("vote", "settles_at", settles_at()),
        migrations.AlterField("vote", "version", version()),
        migrations.AlterField(
            model_name="prompt",
            name="assignment",
            field=models.ForeignKey(
                db_index=False,
                help_text="The task it was written in.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="prompts_written",
                to="labelapp.assignment",
            ),
        ),
        migrations.AddConstraint(
            model_name="prompt",
            constraint=models.UniqueConstraint(
                fields=("assignment", "version"), name="prompt_version_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="prompt",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("corrects__isnull", True), ("version", 1)),
                    models.Q(("corrects__isnull", False), ("version__gt", 1)),
                    _connector="OR",
                ),
                name="prompt_version_chain",
            ),
        ),
        migrations.AddConstraint(
            model_name="prompt",
            constraint=models.CheckConstraint(
                condition=models.Q(("version", 1), ("assignment__isnull", False), _connector="OR"),
                name="prompt_version_written",
            ),
        ),
        migrations.RunSQL(GUARD, UNGUARD),
        migrations.AddField(
            model_name="task",
            name="compare_at",
            field=models.DateTimeField(
                editable=False,
                help_text="When its last ranking has settled: then its rankings are compared.",
                null=True,
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("compare_at__isnull", False)),
                fields=["compare_at"],
                name="task_compare",
            ),
        ),
    ]
