"""Prompts that labelers write: tasks without a prompt, what is asked of them, and what came of them."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labelapp", "0005_writing"),
    ]

    operations = [
        migrations.AddField(
            model_name="prompt",
            name="assignment",
            field=models.OneToOneField(
                help_text="The task it was written in.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                to="labelapp.assignment",
            ),
        ),
        migrations.AddField(
            model_name="prompt",
            name="client_id",
            field=models.UUIDField(null=True, unique=True),
        ),
        migrations.AddField(
            model_name="round",
            name="few_shot_prompts_wanted",
            field=models.PositiveIntegerField(default=0, help_text="To be written."),
        ),
        migrations.AddField(
            model_name="round",
            name="plain_prompts_wanted",
            field=models.PositiveIntegerField(default=0, help_text="To be written."),
        ),
        migrations.AddField(
            model_name="round",
            name="stated_use_cases",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=500),
                blank=True,
                default=list,
                help_text="What user-based prompts are written for, in turn.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="round",
            name="user_prompts_wanted",
            field=models.PositiveIntegerField(default=0, help_text="To be written."),
        ),
        migrations.AddField(
            model_name="task",
            name="asked_kind",
            field=models.CharField(
                blank=True,
                choices=[("plain", "Plain"), ("few_shot", "Few-shot"), ("user", "User-based")],
                help_text="Of the prompt to be written.",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="task",
            name="brief",
            field=models.TextField(
                blank=True, help_text="The use case that a user-based one is for."
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="kind",
            field=models.CharField(
                choices=[
                    ("demonstration", "Demonstration"),
                    ("ranking", "Ranking"),
                    ("prompt", "Prompt to write"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="task",
            name="prompt",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="tasks",
                to="labelapp.prompt",
            ),
        ),
        migrations.AddConstraint(
            model_name="prompt",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("assignment__isnull", True), ("client_id__isnull", True)),
                    models.Q(("assignment__isnull", False), ("client_id__isnull", False)),
                    _connector="OR",
                ),
                name="prompt_written_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="round",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("user_prompts_wanted", 0), ("stated_use_cases__len__gte", 1), _connector="OR"
                ),
                name="round_use_cases_for_user_prompts",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("asked_kind__in", ["plain", "few_shot", "user"]),
                        ("kind", "prompt"),
                        ("prompt__isnull", True),
                    ),
                    models.Q(
                        ("asked_kind", ""),
                        ("prompt__isnull", False),
                        models.Q(("kind", "prompt"), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="task_prompt_or_asked",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("asked_kind", "user"), models.Q(("brief", ""), _negated=True)),
                    models.Q(models.Q(("asked_kind", "user"), _negated=True), ("brief", "")),
                    _connector="OR",
                ),
                name="task_brief_of_user",
            ),
        ),
    ]
