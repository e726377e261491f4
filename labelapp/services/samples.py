"""Bringing in what a sampling run has drawn."""

from collections import defaultdict
from collections.abc import Iterable

from django.db import transaction

from labelapp.models import LivePrompt, Round, Run, Sample, Task
from labelapp.store import clean_text
from labelapp.trainer_gateway import SampleRow


@transaction.atomic
def samples_import(*, run: Run, rows: Iterable[SampleRow]) -> int:
    """Store a finished chunk and open the ranking tasks that waited for it; returns how many rows.

    Safe to run twice, and two at a time: a round's answers are stored only with the change of
    their task from waiting to open.
    """
    of_prompt: dict[int, list[SampleRow]] = defaultdict(list)
    for row in rows:
        of_prompt[int(row.prompt_id)].append(row)
    if run.round_id is None:
        tasks: dict[int, Task | None] = dict.fromkeys(of_prompt)
    else:
        # The round's row before its tasks', as closing does: neither waits for the other in a ring.
        Round.objects.select_for_update(no_key=True).get(pk=run.round_id)
        waiting = Task.objects.select_for_update().filter(
            round_id=run.round_id,
            kind=Task.Kind.RANKING,
            state=Task.State.WAITING,
            prompt_id__in=of_prompt,
        )
        tasks = {task.prompt_id: task for task in waiting if task.prompt_id is not None}
    version_id = run.inputs.values_list("version_id", flat=True).get(role="model")
    samples = [
        sample_of(run, version_id, prompt_id, task, row)
        for prompt_id, task in tasks.items()
        for row in of_prompt[prompt_id]
    ]
    Sample.objects.bulk_create(samples, batch_size=500, ignore_conflicts=True)
    opened = [task.pk for task in tasks.values() if task is not None]
    Task.objects.filter(pk__in=opened).update(state=Task.State.OPEN)
    return len(samples)


def sample_of(
    run: Run, version_id: int | None, prompt_id: int, task: Task | None, row: SampleRow
) -> Sample:
    """A drawn answer as a row of ours, unsaved."""
    assert version_id is not None
    return Sample(
        project_id=run.project_id,
        prompt_id=prompt_id,
        version_id=version_id,
        run=run,
        task=task,
        index=row.index,
        text=clean_text(row.text),
        token_ids=list(row.token_ids),
        finished=row.finished,
        seed=row.seed,
        temperature=row.temperature,
        max_new_tokens=row.max_new_tokens,
    )


@transaction.atomic
def unanswered_tasks_close(*, run: Run) -> int:
    """After a round's sampling: close the ranking tasks whose prompt was too long to be answered.

    Live prompts that came when the run had begun wait for the next.
    """
    if run.round_id is None:
        return 0
    later = LivePrompt.objects.filter(round_id=run.round_id).exclude(run=run)
    return (
        Task.objects.filter(round_id=run.round_id, kind=Task.Kind.RANKING, state=Task.State.WAITING)
        .exclude(pk__in=later.values("task_id"))
        .update(state=Task.State.CLOSED)
    )
