"""Bringing in what a sampling run has drawn."""

from collections import defaultdict
from collections.abc import Iterable

from django.db import transaction
from django.db.models import Count, QuerySet

from labelapp.models import LivePrompt, Prompt, Round, Run, Sample, Task
from labelapp.naming import named_model
from labelapp.store import clean_text
from labelapp.trainer_gateway import SampleRow


@transaction.atomic
def samples_import(*, run: Run, rows: Iterable[SampleRow]) -> int:
    """Store a finished chunk and open the tasks that waited for it; returns how many rows.

    A pair is opened by the second of its two answers.

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
        waiting = _waiting(run).select_for_update().filter(prompt_id__in=of_prompt)
        tasks = {task.prompt_id: task for task in waiting if task.prompt_id is not None}
    version_id = run.inputs.values_list("version_id", flat=True).get(role="model")
    asked = dict(Prompt.objects.filter(pk__in=tasks).values_list("pk", "text"))
    samples = [
        sample_of(run, version_id, prompt_id, task, row, asked=asked[prompt_id])
        for prompt_id, task in tasks.items()
        for row in of_prompt[prompt_id]
    ]
    Sample.objects.bulk_create(samples, batch_size=500, ignore_conflicts=True)
    answered = Task.objects.filter(pk__in=[task.pk for task in tasks.values() if task is not None])
    if run.for_pairs:
        whole = answered.annotate(versions=Count("samples__version", distinct=True))
        answered = Task.objects.filter(pk__in=whole.filter(versions=2).values("pk"))
    answered.update(state=Task.State.OPEN)
    return len(samples)


def _waiting(run: Run) -> QuerySet[Task]:
    """The tasks of a round's run that wait for its answers."""
    assert run.round_id is not None
    kind = Task.Kind.PAIRWISE if run.for_pairs else Task.Kind.RANKING
    waiting = Task.objects.filter(round_id=run.round_id, kind=kind, state=Task.State.WAITING)
    return waiting.exclude(samples__run=run) if run.for_pairs else waiting


def sample_of(
    run: Run,
    version_id: int | None,
    prompt_id: int,
    task: Task | None,
    row: SampleRow,
    *,
    asked: str,
) -> Sample:
    """A drawn answer as a row of ours, unsaved; ``asked`` is its prompt's text."""
    assert version_id is not None
    text = clean_text(row.text)
    return Sample(
        project_id=run.project_id,
        prompt_id=prompt_id,
        version_id=version_id,
        run=run,
        task=task,
        index=row.index,
        text=text,
        names_model=named_model(text, asked),
        token_ids=list(row.token_ids),
        finished=row.finished,
        seed=row.seed,
        temperature=row.temperature,
        max_new_tokens=row.max_new_tokens,
    )


@transaction.atomic
def unanswered_tasks_close(*, run: Run) -> int:
    """After a round's sampling: close the tasks whose prompt was too long to be answered.

    Live prompts that came when the run had begun wait for the next.
    """
    if run.round_id is None:
        return 0
    later = LivePrompt.objects.filter(round_id=run.round_id).exclude(run=run)
    left = _waiting(run).exclude(pk__in=later.values("task_id"))
    return left.update(state=Task.State.CLOSED)
