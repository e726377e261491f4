"""A claim is one call: what the application asked one by one, the database decides in one go.

``labelapp_claim`` locks the labeler's membership, which makes one labeler's claims follow each
other; each of its statements sees what was committed before it began. Positions of tasks are
walked in the round's order from where the labeler stands.
"""

from typing import ClassVar

from django.db import migrations

LEASE = """
-- A lease of the task, whose row the caller has locked: this labeler's lapsed one again with its
-- draft and shown order, else a new one. Null where theirs is not lapsed, or is being handed in at
-- this moment: that is not waited for, as a submit locks its assignment before its task.
-- ``born``: what the application gives each new row. The shown order depends on the task and the
-- labeler alone.
CREATE FUNCTION labelapp_lease(
    of_task bigint, person bigint, moment timestamptz, until timestamptz, born jsonb
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    lease uuid;
BEGIN
    SELECT id INTO lease FROM labelapp_assignment
     WHERE task_id = of_task AND labeler_id = person AND state = 'lapsed'
       FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE labelapp_assignment
           SET state = 'leased', token = gen_random_uuid(), lease_until = until WHERE id = lease;
        RETURN lease;
    END IF;
    INSERT INTO labelapp_assignment
    SELECT (jsonb_populate_record(NULL::labelapp_assignment, born || jsonb_build_object(
               'id', gen_random_uuid(), 'token', gen_random_uuid(), 'state', 'leased',
               'project_id', task.project_id, 'task_id', of_task, 'labeler_id', person,
               'claimed_at', moment, 'lease_until', until, 'shown_order', (
                   SELECT COALESCE(jsonb_agg(
                              sample.id ORDER BY md5(concat_ws(' ', of_task, person, sample.nth))
                          ), '[]')
                     FROM (SELECT id, row_number() OVER (ORDER BY index, version_id) - 1 AS nth
                             FROM labelapp_sample
                            WHERE task_id = of_task AND task.kind <> 'demonstration') AS sample)
           ))).*
      FROM labelapp_task AS task WHERE task.id = of_task
    ON CONFLICT (task_id, labeler_id) DO NOTHING
    RETURNING id INTO lease;
    RETURN lease;
END $$;
"""

THEIRS_TO_DO = """NOT EXISTS (SELECT FROM labelapp_assignment AS mine
                            WHERE mine.task_id = task.id AND mine.labeler_id = person
                              AND mine.state <> 'lapsed')
           AND (avoided = '{}' OR (
                    SELECT sensitive && avoided::varchar[] FROM labelapp_prompt
                    WHERE id = task.prompt_id) IS NOT TRUE)"""

NEXT_TASK = """
-- The next task of one kind with a free place for the labeler, its row locked; null: none is left.
-- Every look is bounded. A task that another claim holds is passed over; only when nothing else is
-- left is it looked at again. ``dice``: two numbers from 0 to 1, which decide in active order whether
-- any task comes, and from where on. (Not EXISTS for ``avoided``: that the planner may answer by
-- reading all prompts first.) ``in_order``: the labeler has come there by the order.
CREATE FUNCTION labelapp_next_task(
    round labelapp_round, of_kind text, person bigint, avoided text[], reached integer,
    dice double precision[], few integer,
    OUT next_task bigint, OUT in_order boolean
) LANGUAGE plpgsql AS $$
DECLARE
    starts integer[] := ARRAY[reached, 0];
    ends integer[] := ARRAY[NULL, reached];
BEGIN
    in_order := false;
    IF round.overlap + round.extra_overlap > 1 THEN  -- nearly finished ones
        SELECT task.id INTO next_task FROM labelapp_task AS task
         WHERE task.nearly_done AND task.claimable
           AND task.id = ANY (ARRAY(
                   SELECT id FROM labelapp_task
                    WHERE nearly_done AND round_id = round.id AND kind = of_kind
                    ORDER BY position LIMIT few))
           AND {theirs_to_do}
         ORDER BY task.position LIMIT 1 FOR NO KEY UPDATE OF task SKIP LOCKED;
        IF next_task IS NOT NULL THEN RETURN; END IF;
    END IF;

    IF round."order" = 'active' AND dice[1] < round.random_share THEN
        SELECT floor(dice[2] * (position + 1))::integer INTO reached FROM labelapp_task
         WHERE claimable AND round_id = round.id AND kind = of_kind ORDER BY position DESC LIMIT 1;
        starts := reached || starts;
        ends := NULL::integer || ends;
    ELSIF round."order" = 'active' THEN  -- those of highest priority
        SELECT task.id INTO next_task FROM labelapp_task AS task
         WHERE task.priority > 0 AND task.claimable
           AND task.id = ANY (ARRAY(
                   SELECT id FROM labelapp_task
                    WHERE claimable AND priority > 0 AND round_id = round.id AND kind = of_kind
                    ORDER BY priority DESC, position LIMIT few))
           AND {theirs_to_do}
         ORDER BY task.priority DESC, task.position LIMIT 1
           FOR NO KEY UPDATE OF task SKIP LOCKED;
        IF next_task IS NOT NULL THEN RETURN; END IF;
    END IF;

    FOR look IN 1 .. cardinality(starts) LOOP  -- in order: from where they stand, then before that
        CONTINUE WHEN starts[look] >= ends[look];
        SELECT task.id INTO next_task FROM labelapp_task AS task
         WHERE task.claimable AND task.round_id = round.id AND task.kind = of_kind
           AND task.position >= starts[look]
           AND task.position < COALESCE(ends[look], 2147483647)
           AND {theirs_to_do}
         ORDER BY task.position LIMIT 1 FOR NO KEY UPDATE OF task SKIP LOCKED;
        in_order := look > cardinality(starts) - 2;
        IF next_task IS NOT NULL THEN RETURN; END IF;
    END LOOP;

    -- What others hold is looked at again, for some seconds. It is not waited for: a task that was
    -- full by the time it was locked stays locked, and two claims could wait for each other's.
    FOR look IN 1 .. 2000 LOOP
        SELECT task.id INTO next_task FROM labelapp_task AS task
         WHERE task.claimable AND task.round_id = round.id AND task.kind = of_kind
           AND {theirs_to_do}
         ORDER BY task.position LIMIT 1;
        EXIT WHEN next_task IS NULL;
        SELECT task.id INTO next_task FROM labelapp_task AS task
         WHERE task.claimable AND task.round_id = round.id AND task.kind = of_kind
           AND {theirs_to_do}
         ORDER BY task.position LIMIT 1 FOR NO KEY UPDATE OF task SKIP LOCKED;
        EXIT WHEN next_task IS NOT NULL;
        PERFORM pg_sleep(0.002);
    END LOOP;
END $$;
""".replace("{theirs_to_do}", THEIRS_TO_DO)

CLAIM = """
-- The labeler's work in hand, else a lease of the next task; null: nothing is left. ``kinds`` is
-- what may be given; of them the one furthest behind its weight comes first, weight 0 last.
-- ``outcome``: stranger (no member), quota (has done their share), or empty.
CREATE FUNCTION labelapp_claim(
    of_project bigint, person bigint, avoided text[], kinds text[],
    moment timestamptz, until timestamptz, born jsonb,
    dice double precision[], few integer, stride integer,
    OUT lease uuid, OUT outcome text
) LANGUAGE plpgsql AS $$
DECLARE
    round labelapp_round;
    turn record;
    next record;
BEGIN
    outcome := '';
    PERFORM FROM labelapp_membership WHERE project_id = of_project AND user_id = person
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'stranger';
        RETURN;
    END IF;
    SELECT id INTO lease FROM labelapp_assignment
     WHERE project_id = of_project AND labeler_id = person AND state = 'leased'
     ORDER BY claimed_at LIMIT 1 FOR NO KEY UPDATE;
    IF FOUND THEN
        UPDATE labelapp_assignment SET lease_until = until WHERE id = lease;
        RETURN;
    END IF;
    SELECT * INTO round FROM labelapp_round WHERE project_id = of_project AND state = 'open';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF round.quota <= (SELECT sum(handed_in) FROM labelapp_standing
                        WHERE round_id = round.id AND labeler_id = person) THEN
        outcome := 'quota';
        RETURN;
    END IF;
    FOR turn IN
        SELECT wanted.kind, COALESCE(standing.reached, 0) AS reached
          FROM unnest(kinds) WITH ORDINALITY AS wanted (kind, nth)
          LEFT JOIN labelapp_standing AS standing ON standing.round_id = round.id
               AND standing.labeler_id = person AND standing.kind = wanted.kind
         ORDER BY COALESCE(standing.handed_in, 0)
                  / NULLIF(COALESCE((round.kind_weights ->> wanted.kind)::float, 1), 0)
                  NULLS LAST, wanted.nth
    LOOP
        SELECT * INTO next FROM labelapp_next_task(
            round, turn.kind, person, avoided, turn.reached, dice, few);
        CONTINUE WHEN next.next_task IS NULL;
        lease := labelapp_lease(next.next_task, person, moment, until, born);
        IF lease IS NOT NULL THEN
            IF next.in_order THEN  -- the place is written down once in a while
                INSERT INTO labelapp_standing AS standing
                       (round_id, labeler_id, kind, handed_in, reached)
                SELECT round.id, person, turn.kind, 0, position FROM labelapp_task
                 WHERE id = next.next_task
                   AND NOT (position >= turn.reached AND position < turn.reached + stride)
                ON CONFLICT (round_id, labeler_id, kind) DO UPDATE SET reached = EXCLUDED.reached;
            END IF;
            RETURN;
        END IF;
    END LOOP;
END $$;
"""

BACKWARDS = """
DROP FUNCTION labelapp_claim;
DROP FUNCTION labelapp_next_task;
DROP FUNCTION labelapp_lease;
"""


class Migration(migrations.Migration):
    dependencies: ClassVar = [("labelapp", "0010_settling")]
    operations: ClassVar = [migrations.RunSQL(LEASE + NEXT_TASK + CLAIM, BACKWARDS)]
