"""Labelers write prompts of three kinds; each counts once, and feeds the next round."""

import json
import uuid
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Project, Prompt, PromptKind, Round, Task, User
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.progress import labeler_progress, round_progress
from labelapp.selectors.queue import queue_counts
from labelapp.services import written_prompts
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.prompts import labeler_as_author, split_of_author
from labelapp.services.rounds import instructions_add, round_close, round_open
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.written_prompts import written_prompt_submit
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)
from tests.labelapp.prompt_cast import PLAIN, claimed

pytestmark = pytest.mark.django_db

FEW_SHOT = {
    "use_case": "classification",
    "instruction": "Say the mood.",
    "pairs": [{"query": "Hooray!", "response": "glad"}, {"query": "Oh no.", "response": "sad"}],
    "query": "It rains again.",
}


@pytest.fixture
def project() -> Project:
    return make_project()


@pytest.fixture
def labeler(project: Project) -> User:
    """A labeler whose prompts fall into the train split."""
    while True:
        user = make_member(project)
        if split_of_author(f"labeler-{labeler_pseudonym(user.pk)}") == "train":
            return user


def handed_in(assignment: Assignment, content: dict[str, Any], **changes: Any) -> Prompt:
    asked = {
        "assignment_id": assignment.pk,
        "labeler": assignment.labeler,
        "prompt": content,
        "client_id": client_id(),
    }
    return written_prompt_submit(**asked | changes)


def test_a_plain_prompt_is_stored_with_its_author_and_split(
    project: Project, labeler: User
) -> None:
    assignment = claimed(project, labeler)
    once = client_id()
    made = handed_in(assignment, PLAIN, client_id=once)
    assert handed_in(assignment, PLAIN, client_id=once) == made
    assert Prompt.objects.count() == 1
    assert (made.kind, made.use_case, made.text) == ("plain", "brainstorming", PLAIN["text"])
    assert made.author == f"labeler-{labeler_pseudonym(labeler.pk)}"
    assert (made.author, made.split) == labeler_as_author(labeler)
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.SUBMITTED
    with pytest.raises(StateConflict, match="handed in this task already"):
        handed_in(assignment, PLAIN | {"text": "Another."})


def test_a_few_shot_prompt_keeps_its_parts_and_gets_its_text(
    project: Project, labeler: User
) -> None:
    made = handed_in(claimed(project, labeler, "few_shot"), FEW_SHOT)
    assert made.parts == {name: FEW_SHOT[name] for name in ("instruction", "pairs", "query")}
    assert made.text == (
        "Say the mood.\n\nInput: Hooray!\nOutput: glad\n\nInput: Oh no.\nOutput: sad\n\n"
        "Input: It rains again.\nOutput:"
    )


def test_a_user_based_prompt_is_for_the_use_case_that_was_given(
    project: Project, labeler: User
) -> None:
    made = handed_in(claimed(project, labeler, "user"), PLAIN)
    assert (made.kind, made.parts) == ("user", {"stated_use_case": "I sell bicycles."})


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("plain", {}, "kind of use"),
        ("plain", {"use_case": "chat"}, "text is missing"),
        ("plain", PLAIN | {"use_case": "riddle"}, "must be one of"),
        ("plain", PLAIN | {"text": "x" * 20_001}, "at most 20,000"),
        ("plain", PLAIN | {"text": 7}, "must be text"),
        ("plain", PLAIN | {"author": "someone else"}, "no field 'author'"),
        ("plain", PLAIN | {"messages": []}, "no field 'messages'"),
        ("user", PLAIN | {"stated_use_case": "mine"}, "no field 'stated_use_case'"),
        ("few_shot", FEW_SHOT | {"text": "mine"}, "no field 'text'"),
        ("few_shot", FEW_SHOT | {"pairs": []}, "needs pairs"),
        ("few_shot", FEW_SHOT | {"pairs": ["x"]}, "object with query"),
        ("few_shot", FEW_SHOT | {"pairs": [{"query": "a"}]}, "response is missing"),
        ("few_shot", FEW_SHOT | {"query": " "}, "to be answered"),
        ("few_shot", FEW_SHOT | {"instruction": ""}, "instruction is missing"),
    ],
)
def test_what_is_no_prompt_is_refused_and_the_task_stays(
    project: Project, labeler: User, kind: str, content: dict[str, Any], said: str
) -> None:
    assignment = claimed(project, labeler, kind)
    with pytest.raises(BadInput, match=said):
        handed_in(assignment, content)
    assert not Prompt.objects.exists()
    assignment.refresh_from_db()
    assert assignment.state == Assignment.State.LEASED


def test_a_prompt_that_is_there_already_is_refused_with_a_clear_sentence(
    project: Project, labeler: User
) -> None:
    handed_in(claimed(project, labeler), PLAIN)
    assignment = claimed(project, labeler)
    with pytest.raises(BadInput, match="there already"):
        handed_in(assignment, PLAIN | {"text": "name  TEN uses of an old door."})
    handed_in(assignment, PLAIN | {"text": "Name ten uses of an old window."})
    assert Prompt.objects.count() == 2


def test_one_author_writes_no_more_than_the_limit(
    project: Project, labeler: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_prompts, "AUTHOR_LIMIT", 1)
    handed_in(claimed(project, labeler), PLAIN)
    with pytest.raises(StateConflict, match="the most for one author"):
        handed_in(claimed(project, labeler), PLAIN | {"text": "Another."})


def test_over_the_api_and_on_the_page(project: Project, labeler: User) -> None:
    assignment = claimed(project, labeler, "user")
    client = Client()
    client.force_login(labeler)
    assert "I sell bicycles." in client.get("/p/garden/work/").content.decode()
    page = client.get(f"/p/garden/task/{assignment.pk}/").content.decode()
    assert "I sell bicycles." in page
    api = f"/api/p/garden/assignments/{assignment.pk}/submit/"
    sent = {"client_id": str(uuid.uuid4()), "prompt": PLAIN, "active_ms": 1, "idle_ms": 1}
    bad = client.post(api, json.dumps(sent | {"text": "Both."}), content_type="application/json")
    assert bad.status_code == 400
    for _ in range(2):
        answer = client.post(api, json.dumps(sent), content_type="application/json")
        assert answer.status_code == 200
        assert answer.json() == {"state": "submitted", "label_id": Prompt.objects.get().pk}


def test_a_text_or_a_ranking_is_not_taken_for_a_prompt(project: Project, labeler: User) -> None:
    assignment = claimed(project, labeler)
    client = Client()
    client.force_login(labeler)
    api = f"/api/p/garden/assignments/{assignment.pk}/submit/"
    for content in ({"text": "An answer."}, {"groups": [["A"]]}):
        sent = {"client_id": str(uuid.uuid4()), **content}
        answer = client.post(api, json.dumps(sent), content_type="application/json")
        assert answer.status_code == 400, content
    other = make_task(assignment.task.round)
    assert other.prompt is not None
    taken = assignment_claim_next(
        project=project, labeler=make_member(project), kind="demonstration"
    )
    assert taken is not None
    with pytest.raises(BadInput, match="not Prompt to write"):
        handed_in(taken, PLAIN)


def test_a_round_has_the_tasks_it_wants_and_its_prompts_feed_the_next(
    project: Project, labeler: User, store: object
) -> None:
    make_version(project, state="current")
    instructions_add(project=project, body="Be helpful first.")
    asked = {"demonstrations_wanted": 0, "rankings_wanted": 0}
    first = round_open(
        project=project,
        **asked,
        plain_prompts_wanted=2,
        few_shot_prompts_wanted=1,
        user_prompts_wanted=3,
        stated_use_cases=["I sell bicycles.", " ", "I teach  singing."],
    )
    tasks = first.tasks.filter(kind=Task.Kind.PROMPT)
    assert sorted(tasks.values_list("asked_kind", "brief")) == [
        ("few_shot", ""),
        ("plain", ""),
        ("plain", ""),
        ("user", "I sell bicycles."),
        ("user", "I sell bicycles."),
        ("user", "I teach singing."),
    ]
    waiting = {each.kind: each.count for each in queue_counts(round_=first, labeler=labeler)}
    assert waiting["prompt"] == 6
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    content = FEW_SHOT if assignment.task.asked_kind == PromptKind.FEW_SHOT else PLAIN
    made = handed_in(assignment, content)
    assert labeler_progress(project=project, labeler=labeler).prompts == 1
    assert [(each.kind, each.labels, each.wanted) for each in round_progress(first)] == [
        ("prompt", 1, 6)
    ]
    assert round_burndown(first)["series"]["prompt"][-1] == 5

    round_close(round=first)
    second = round_open(project=project, demonstrations_wanted=1, rankings_wanted=1)
    assert {task.prompt for task in second.tasks.all()} == {made}  # SFT and comparisons
    assert snapshot_freeze(project=project, kind="prompts").rows == 1  # PPO


def test_user_based_prompts_need_a_use_case(project: Project) -> None:
    make_version(project, state="current")
    instructions_add(project=project, body="Be helpful first.")
    asked = {"demonstrations_wanted": 0, "rankings_wanted": 0, "user_prompts_wanted": 1}
    with pytest.raises(BadInput, match="give at least one"):
        round_open(project=project, **asked)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="under 500"):
        round_open(project=project, **asked, stated_use_cases=["x" * 501])  # type: ignore[arg-type]


def test_the_database_refuses_tasks_that_make_no_sense(project: Project) -> None:
    round_ = make_round(project)
    (prompt,) = make_prompts(project, 1)
    base = {"project": project, "round": round_, "state": "open", "position": 0}
    for fields in (
        {"kind": "prompt"},
        {"kind": "prompt", "asked_kind": "plain", "prompt": prompt},
        {"kind": "prompt", "asked_kind": "user"},
        {"kind": "prompt", "asked_kind": "plain", "brief": "for someone"},
        {"kind": "ranking"},
        {"kind": "ranking", "prompt": prompt, "asked_kind": "plain"},
    ):
        with pytest.raises(IntegrityError, match="task_"), transaction.atomic():
            Task.objects.create(**base | fields)
    with pytest.raises(IntegrityError, match="round_use_cases"), transaction.atomic():
        Round.objects.filter(pk=round_.pk).update(user_prompts_wanted=1)
    with pytest.raises(IntegrityError, match="prompt_written_once"), transaction.atomic():
        Prompt.objects.update(client_id=client_id())
