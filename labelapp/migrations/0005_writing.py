"""Write first: a round may ask for the labeler's own answer before a ranking; none counts without it.

Conversations: the messages of a prompt are at least two, the last a person's.
"""

from typing import ClassVar

from django.db import migrations, models

FORWARDS = """
CREATE FUNCTION labelapp_written_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM labelapp_task t JOIN labelapp_round r ON r.id = t.round_id
                WHERE t.id = NEW.task_id AND r.write_first)
       AND NOT EXISTS (SELECT 1 FROM labelapp_demonstration d
                        WHERE d.assignment_id = NEW.assignment_id) THEN
        RAISE EXCEPTION 'the labeler has not written an answer of their own'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ranking_written_first';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER labelapp_ranking_written_first
BEFORE INSERT ON labelapp_ranking
FOR EACH ROW EXECUTE FUNCTION labelapp_written_first();

ALTER TABLE labelapp_prompt ADD CONSTRAINT prompt_messages CHECK (
    CASE
        WHEN NOT (parts ? 'messages') THEN true
        WHEN jsonb_typeof(parts -> 'messages') <> 'array' THEN false
        ELSE jsonb_array_length(parts -> 'messages') >= 2
             AND COALESCE(parts -> 'messages' -> -1 ->> 'role', '') = 'user'
    END
);
"""

BACKWARDS = """
ALTER TABLE labelapp_prompt DROP CONSTRAINT prompt_messages;
DROP TRIGGER labelapp_ranking_written_first ON labelapp_ranking;
DROP FUNCTION labelapp_written_first();
"""


class Migration(migrations.Migration):
    dependencies: ClassVar = [("labelapp", "0004_ratings")]
    operations: ClassVar = [
        migrations.AddField(
            model_name="round",
            name="write_first",
            field=models.BooleanField(
                default=False,
                help_text="Labelers write their own answer before they see those to rank.",
            ),
        ),
        migrations.AlterField(
            model_name="prompt",
            name="parts",
            field=models.JSONField(
                default=dict,
                help_text=(
                    "few_shot: instruction, pairs, query; user: stated_use_case; plain: empty. Any of"
                    " them may be a conversation: messages, the person's turn last."
                ),
            ),
        ),
        migrations.AddField(
            model_name="assignment",
            name="idle_ms",
            field=models.PositiveIntegerField(
                default=0, help_text="Page open, but no sign of the person, or behind another."
            ),
        ),
        migrations.AddField(
            model_name="demonstration",
            name="idle_ms",
            field=models.PositiveIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="ranking",
            name="idle_ms",
            field=models.PositiveIntegerField(null=True),
        ),
        migrations.RunSQL(FORWARDS, BACKWARDS),
    ]
