"""Reads of the answers that are to be ranked or compared."""

from labelapp.models import Round, Sample, Task


def answer_sets(round_: Round, *, limit: int | None = None) -> list[list[str]]:
    """Texts of the answers to each of the round's answered tasks, rankings first, in task order."""
    answered = round_.tasks.filter(kind__in=Task.ANSWERED, samples__isnull=False)
    in_order = answered.exclude(state=Task.State.WAITING).order_by("-kind", "position")
    ids = list(in_order.values_list("pk", flat=True).distinct()[:limit])
    texts: dict[int, list[str]] = {task_id: [] for task_id in ids}
    samples = Sample.objects.filter(task__in=ids).order_by("index", "version_id")
    for task_id, text in samples.values_list("task_id", "text"):
        if task_id is not None:
            texts[task_id].append(text)
    return list(texts.values())


def tasks_waiting(round_: Round) -> int:
    """Tasks whose answers are still being drawn; none once the round is closed."""
    return round_.tasks.filter(kind__in=Task.ANSWERED, state=Task.State.WAITING).count()


def answers_named(round_: Round) -> int:
    """Answers of the round that say which model wrote them: whoever judges them is not blind."""
    return Sample.objects.filter(task__round=round_).exclude(names_model="").count()
