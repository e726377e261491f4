"""Tasks of every kind, each in the hands of a labeler of its own."""

from typing import Any

from labelapp.models import Assignment, Prompt, Round, Sample, Task
from labelapp.services.assignments import assignment_claim_next
from tests import factories
from tests.e2e.labeling import TEXTS

ARABIC = "اشرح لطفل لماذا يتغير شكل القمر، في جملتين قصيرتين."
FEW_SHOT = {
    "instruction": "Say the mood.",
    "pairs": [{"query": "Hooray!", "response": "glad"}],
    "query": "Oh no.",
}
TURNS = [
    {"role": "user", "content": "Name a lake."},
    {"role": "assistant", "content": "**Garda**, in Italy."},
    {"role": "user", "content": "How deep is it?"},
]


def hand(round_: Round, kind: str, prompt: dict[str, Any] | None = None, **task: Any) -> Assignment:
    """A task of that kind in the hands of a fresh labeler."""
    made = factories.make_task(round_, kind, **task)
    Prompt.objects.filter(pk=made.prompt_id).update(**prompt or {"text": ARABIC})
    for sample, text in zip(made.samples.order_by("index"), TEXTS, strict=False):
        Sample.objects.filter(pk=sample.pk).update(text=text)
    labeler_ = factories.make_member(round_.project)
    claimed = assignment_claim_next(project=round_.project, labeler=labeler_, kind=kind)
    assert claimed is not None and claimed.task_id == made.pk
    return claimed


def prompt_task(round_: Round, kind: str, brief: str) -> Assignment:
    """A prompt to be written, in the hands of a fresh labeler."""
    Round.objects.filter(pk=round_.pk).update(plain_prompts_wanted=1)
    task = Task.objects.create(
        project=round_.project,
        round=round_,
        kind=Task.Kind.PROMPT,
        asked_kind=kind,
        brief=brief,
        state=Task.State.OPEN,
        position=10_000 + Task.objects.count(),
    )
    labeler_ = factories.make_member(round_.project)
    claimed = assignment_claim_next(project=round_.project, labeler=labeler_, kind="prompt")
    assert claimed is not None and claimed.task_id == task.pk
    return claimed
