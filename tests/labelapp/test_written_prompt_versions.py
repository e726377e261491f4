"""A written prompt is taken back for ten seconds, counts for nobody till then, and is corrected after."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from labelapp.api import writing
from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Project, Prompt, Split, User
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.exports import export_lines
from labelapp.selectors.lists import prompt_counts, prompts_list
from labelapp.selectors.pairs import prompts_of_pairs
from labelapp.selectors.progress import labeler_progress, round_progress
from labelapp.services.aftercare import correction_open, label_undo
from labelapp.services.prompts import PromptInput, demonstrations_import
from labelapp.services.rounds import prompts_for_labeling, round_close
from labelapp.services.runs import evaluation_sampling_queue
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.written_prompts import written_prompt_submit
from tests.factories import client_id, make_member, make_project, make_version
from tests.labelapp.prompt_cast import PLAIN, claimed

pytestmark = pytest.mark.django_db

FEW_SHOT = {
    "use_case": "classification",
    "instruction": "Say the mood.",
    "pairs": [{"query": "Hooray!", "response": "glad"}],
    "query": "It rains again.",
}


@pytest.fixture(autouse=True)
def _ten_seconds(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def labeler(project: Project) -> User:
    return make_member(project)


def submit(assignment: Assignment, content: dict[str, Any] = PLAIN, **changes: Any) -> Prompt:
    asked = {
        "assignment_id": assignment.pk,
        "labeler": assignment.labeler,
        "prompt": content,
        "client_id": client_id(),
    }
    return written_prompt_submit(**asked | changes)


def settle() -> None:
    """Let ten seconds pass."""
    past = timezone.now() - timedelta(seconds=1)
    Assignment.objects.filter(settles_at__isnull=False).update(settles_at=past)
    Assignment.objects.filter(undo_until__isnull=False).update(undo_until=past)
    Prompt.objects.update(settles_at=past)


def undo(assignment: Assignment) -> Assignment:
    return label_undo(assignment_id=assignment.pk, labeler=assignment.labeler)


def corrected(assignment: Assignment, content: dict[str, Any]) -> Prompt:
    correction_open(assignment_id=assignment.pk, labeler=assignment.labeler)
    return submit(assignment, content)


# --- who sees it


def seen(project: Project, labeler: User) -> dict[str, int]:
    """One number from everything that reads prompts."""
    round_ = project.rounds.get()
    (kind,) = round_progress(round_)
    mine = labeler_progress(project=project, labeler=labeler)
    curve = round_burndown(round_)["series"]["prompt"]
    return {
        "the next round": len(prompts_for_labeling(project)),
        "pairs of the next round": sum(
            prompts_of_pairs(project, split).count() for split in Split.values
        ),
        "prompts page": prompts_list(project).count(),
        "new round's form": prompt_counts(project).fitting,
        "round page": kind.submitted,
        "round page, prompts": kind.labels,
        "own page": mine.prompts,
        "own page, in the round": mine.in_round,
        "burn-down": curve[0] - curve[-1],
    }


def test_a_fresh_prompt_counts_nowhere_and_a_settled_one_everywhere(
    project: Project, labeler: User, store: Path
) -> None:
    submit(claimed(project, labeler))
    assert {name for name, count in seen(project, labeler).items() if count} == set()
    with pytest.raises(BadInput, match="no prompts to freeze"):
        snapshot_freeze(project=project, kind="prompts")
    settle()
    assert {name for name, count in seen(project, labeler).items() if count != 1} == set()
    assert snapshot_freeze(project=project, kind="prompts").rows == 1


def test_no_answers_are_drawn_to_a_fresh_prompt(
    project: Project, labeler: User, store: Path
) -> None:
    version = make_version(project)
    made = submit(claimed(project, labeler))
    asked: dict[str, Any] = {"project": project, "version": version, "split": made.split}
    with pytest.raises(BadInput, match="no prompts in the"):
        evaluation_sampling_queue(**asked)
    settle()
    assert evaluation_sampling_queue(**asked).stage == "sample"


def test_prompts_of_simulated_labelers_count_at_once(project: Project, labeler: User) -> None:
    labeler.simulated = True
    labeler.save()
    submit(claimed(project, labeler))
    assert len(prompts_for_labeling(project)) == 1


# --- taking it back


@pytest.mark.parametrize(("kind", "content"), [("plain", PLAIN), ("few_shot", FEW_SHOT)])
def test_undo_opens_the_task_again_with_what_was_written(
    project: Project, labeler: User, kind: str, content: dict[str, Any]
) -> None:
    assignment = claimed(project, labeler, kind)
    made = submit(assignment, content, draft={"notes": "kept", "client_id": "old"})
    reopened = undo(assignment)
    assert (reopened.state, reopened.draft) == ("leased", {"notes": "kept", **content})
    assert not Prompt.objects.exists()
    with pytest.raises(StateConflict, match="took this submit back"):
        submit(assignment, content, client_id=made.client_id)
    assert submit(reopened, content).version == 1


def test_after_ten_seconds_undo_is_refused(project: Project, labeler: User) -> None:
    assignment = claimed(project, labeler)
    submit(assignment)
    settle()
    with pytest.raises(StateConflict, match="too late"):
        undo(assignment)
    assert Prompt.objects.exists()


def test_an_uploaded_demonstration_of_a_fresh_prompt_waits(project: Project, labeler: User) -> None:
    submit(claimed(project, labeler))
    rows = [(PromptInput("plain", "chat", "upload", PLAIN["text"]), "A table.")]
    with pytest.raises(StateConflict, match="try again in a minute"):
        demonstrations_import(project=project, rows=rows)
    settle()
    assert demonstrations_import(project=project, rows=rows) == 1


# --- corrections


def test_a_correction_is_the_next_version_and_the_first_is_kept(
    project: Project, labeler: User, store: Path
) -> None:
    assignment = claimed(project, labeler)
    first = submit(assignment)
    settle()
    second = corrected(assignment, PLAIN | {"text": "Name ten uses of an old window."})
    assert (second.version, second.corrects) == (2, first)
    assert prompts_for_labeling(project) == [first.pk]
    settle()
    assert prompts_for_labeling(project) == [second.pk]
    assert {name for name, count in seen(project, labeler).items() if count != 1} == set()
    frozen = snapshot_freeze(project=project, kind="prompts")
    (row,) = b"".join(export_lines(snapshot=frozen, format_name="native")).splitlines()
    assert json.loads(row)["prompt"][0]["content"] == second.text
    assert Prompt.objects.count() == 2


def test_a_correction_of_the_use_case_alone_is_no_duplicate(
    project: Project, labeler: User
) -> None:
    assignment = claimed(project, labeler)
    submit(assignment)
    settle()
    assert corrected(assignment, PLAIN | {"use_case": "chat"}).version == 2
    settle()
    assert corrected(assignment, PLAIN).version == 3
    with pytest.raises(BadInput, match="there already"):
        submit(claimed(project, labeler))


def test_a_correction_can_be_taken_back_and_the_first_goes_on(
    project: Project, labeler: User
) -> None:
    assignment = claimed(project, labeler)
    first = submit(assignment)
    settle()
    corrected(assignment, PLAIN | {"text": "Another one."})
    reopened = undo(assignment)
    assert (reopened.state, reopened.draft["text"]) == ("submitted", "Another one.")
    assert prompts_for_labeling(project) == [first.pk]


def test_a_closed_round_is_not_corrected(project: Project, labeler: User) -> None:
    assignment = claimed(project, labeler)
    submit(assignment)
    settle()
    round_close(round=project.rounds.get())
    with pytest.raises(StateConflict, match="round is closed"):
        corrected(assignment, PLAIN | {"text": "Another one."})


def test_the_database_keeps_what_was_written(project: Project, labeler: User) -> None:
    assignment = claimed(project, labeler)
    first = submit(assignment)
    settle()
    row: dict[str, Any] = {
        name: getattr(first, name) for name in ("project", "kind", "use_case", "author", "split")
    }
    row |= {"text": "By hand.", "assignment": assignment, "client_id": client_id()}
    for change in (
        lambda: first.delete(),
        lambda: Prompt.objects.update(text="Better."),
        lambda: Prompt.objects.update(use_case="chat"),
        lambda: Prompt.objects.create(**row, fingerprint="1", version=2),
        lambda: Prompt.objects.create(**row, fingerprint="1", version=3, corrects=first),
        lambda: Prompt.objects.create(**row, fingerprint="1"),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            change()


# --- the pages


def test_the_history_lists_written_prompts_and_corrects_them(
    project: Project, labeler: User
) -> None:
    client = Client()
    client.force_login(labeler)
    user_based = claimed(project, labeler, "user")
    submit(user_based, PLAIN | {"text": "Write a notice <b>for</b> my shop."})
    shown = client.get("/p/garden/work/").content.decode()
    assert f"/p/garden/task/{user_based.pk}/undo/" in shown
    settle()
    with CaptureQueriesContext(connection) as few:
        listed = client.get("/p/garden/history/?kind=prompt").content.decode()
    assert "Write a notice &lt;b&gt;for&lt;/b&gt; my shop." in listed
    label = client.get(f"/p/garden/history/{user_based.pk}/").content.decode()
    assert "I sell bicycles." in label
    assert "Brainstorming" in label
    page = client.post(f"/p/garden/task/{user_based.pk}/correct/", follow=True)
    assert page.redirect_chain[-1][0] == f"/p/garden/task/{user_based.pk}/"
    assert "Leave as it was" in page.content.decode()

    for n in range(4):
        submit(claimed(project, labeler), PLAIN | {"text": f"Tell me of thing {n}."})
    settle()
    with CaptureQueriesContext(connection) as many:
        client.get("/p/garden/history/?kind=prompt")
    assert len(many) <= len(few)


def test_the_page_is_told_how_long_the_prompt_is_for_the_model(
    project: Project, labeler: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []

    def count(run_id: object, text: str) -> int:
        counted.append(text)
        return 7

    monkeypatch.setattr(writing, "token_count", count)
    client = Client()
    client.force_login(labeler)
    api = f"/api/p/garden/assignments/{claimed(project, labeler, 'few_shot').pk}/preview/"

    def asked(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        answer = client.post(api, json.dumps(body), content_type="application/json")
        return answer.status_code, answer.json()

    assert asked({"prompt": FEW_SHOT}) == (200, {"tokens": 7})
    assert (
        counted[-1]
        == "Say the mood.\n\nInput: Hooray!\nOutput: glad\n\nInput: It rains again.\nOutput:"
    )
    assert asked({"prompt": {"text": "Name one."}})[0] == 200
    assert counted[-1] == "Name one."
    for odd in ({"pairs": 7}, {"pairs": [7, {"query": None}]}, {"text": None}, {}):
        assert asked({"prompt": odd})[0] == 200, odd
    assert asked({})[0] == 400
    assert asked({"text": "a", "prompt": {}})[0] == 400
