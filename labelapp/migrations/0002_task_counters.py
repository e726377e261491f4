"""Task.taken and Task.submitted follow the assignments by trigger.

The counters are what makes "never more than ``overlap``" a constraint: every change of an
assignment changes its task's row, so it takes that row's lock and meets its checks.
"""

from typing import ClassVar

from django.db import migrations

FORWARDS = """
CREATE FUNCTION labelapp_task_counters() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER labelapp_assignment_counts
AFTER INSERT OR DELETE OR UPDATE OF state ON labelapp_assignment
FOR EACH ROW EXECUTE FUNCTION labelapp_task_counters();
"""

BACKWARDS = """
DROP TRIGGER labelapp_assignment_counts ON labelapp_assignment;
DROP FUNCTION labelapp_task_counters();
"""


class Migration(migrations.Migration):
    dependencies: ClassVar = [("labelapp", "0001_initial")]
    operations: ClassVar = [migrations.RunSQL(FORWARDS, BACKWARDS)]
