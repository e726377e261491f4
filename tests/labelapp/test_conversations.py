"""Prompts of several turns: from the file to the page, the snapshot and what the trainer reads."""

import json
from pathlib import Path

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from labelapp.models import Demonstration, Project, Prompt, Round, Task, Upload
from labelapp.selectors.exports import export_lines
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import text_submit
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.uploads import upload_apply, upload_preview
from labelapp.store import snapshot_folder
from labelapp.trainer_gateway import DemonstrationRow
from tests.factories import client_id, make_member, make_project, make_round
from trainer.records import read_rows

pytestmark = pytest.mark.django_db

TURNS = [
    {"role": "system", "content": "You are a gardener."},
    {"role": "user", "content": "What grows in shade?"},
    {"role": "assistant", "content": "**Ferns** do."},
    {"role": "user", "content": "And flowers?"},
]


def uploaded(
    project: Project, *rows: object, kind: str = "prompts", name: str = "a.jsonl"
) -> Upload:
    content = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return upload_preview(
        project=project,
        kind=kind,
        file_name=name,
        content=content.encode(),
        by=make_member(project, "admin"),
    )


def conversation_task(project: Project) -> tuple[Round, Task]:
    upload_apply(upload=uploaded(project, {"messages": TURNS, "author": "author-train"}))
    round_ = make_round(project)
    task = Task.objects.create(
        project=project,
        round=round_,
        prompt=Prompt.objects.get(),
        kind=Task.Kind.DEMONSTRATION,
        state=Task.State.OPEN,
        position=0,
    )
    return round_, task


def test_a_conversation_is_uploaded_as_one_prompt_and_found_again_as_the_same() -> None:
    project = make_project()
    upload_apply(upload=uploaded(project, {"messages": TURNS}))
    prompt = Prompt.objects.get()
    assert prompt.messages() == TURNS
    assert prompt.text.startswith("System: You are a gardener.\n\nUser: What grows in shade?")
    again = uploaded(project, {"messages": TURNS}, {"messages": TURNS[:2]})
    assert [problem["duplicate"] for problem in again.problems] == [True]
    one_turn = uploaded(project, {"messages": [{"role": "user", "content": "Hello there."}]})
    upload_apply(upload=one_turn)
    assert Prompt.objects.get(text="Hello there.").parts == {}


def test_a_csv_cell_may_hold_the_messages() -> None:
    project = make_project()
    cell = json.dumps(TURNS).replace('"', '""')
    upload = uploaded(project, "messages,author", f'"{cell}",ann', '"[broken",ann', name="a.csv")
    assert upload.rows[0]["parts"] == {"messages": TURNS}
    assert "messages must hold JSON" in upload.problems[0]["message"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": TURNS, "text": "Both."}, "either text or messages"),
        ({"messages": TURNS[:3]}, "last of messages must be of the user"),
        ({"messages": TURNS[2:]}, "user and assistant in turn"),
        ({"messages": [TURNS[1], TURNS[0], TURNS[1]]}, "user and assistant in turn"),
        ({"messages": [TURNS[1], TURNS[1]]}, "user and assistant in turn"),
        ({"messages": "hello"}, "must be a list"),
        ({"messages": []}, "must be a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role is 'tool'"),
        ({"messages": [{"role": "user", "content": " "}]}, "content is missing"),
        ({"messages": ["hello"]}, "object with role and content"),
        ({"messages": TURNS, "kind": "few_shot", "pairs": []}, "one text"),
    ],
)
def test_what_is_no_conversation_is_refused_with_a_sentence(row: object, said: str) -> None:
    upload = uploaded(make_project(), row)
    assert upload.rows == []
    assert said in upload.problems[0]["message"]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*TURNS, {"role": "assistant", "content": "Hostas do."}]},
        {"messages": TURNS, "completion": "Hostas do."},
        {"prompt": TURNS, "completion": [{"role": "assistant", "content": "Hostas do."}]},
    ],
)
def test_a_demonstration_is_the_next_turn_in_each_of_the_usual_forms(row: object) -> None:
    project = make_project()
    upload_apply(upload=uploaded(project, row, kind="demonstrations"))
    written = Demonstration.objects.get()
    assert written.text == "Hostas do."
    assert written.prompt.messages() == TURNS


def test_the_page_shows_the_turns_and_the_snapshot_carries_them(store: Path) -> None:
    project = make_project()
    _, task = conversation_task(project)
    labeler = make_member(project)
    claimed = assignment_claim_next(project=project, labeler=labeler)
    assert claimed is not None
    client = Client()
    client.force_login(labeler)
    page = client.get(f"/p/garden/task/{claimed.pk}/").content.decode()
    assert page.count('<li class="turn ') == 4
    assert "<strong>Ferns</strong> do." in page
    assert "The assistant's next turn, by you" in page

    text_submit(assignment_id=claimed.pk, labeler=labeler, text="Hostas do.", client_id=client_id())
    snapshot = snapshot_freeze(project=project, kind="demonstrations")
    (row,) = read_rows(snapshot_folder(snapshot.name) / "rows.jsonl", DemonstrationRow)
    assert [{"role": turn.role, "content": turn.content} for turn in row.prompt] == TURNS
    assert row.completion == "Hostas do."
    exported = b"".join(export_lines(snapshot=snapshot, format_name="trl-prompt-completion"))
    assert json.loads(exported)["prompt"] == TURNS


@pytest.mark.parametrize("messages", ["hello", [], TURNS[:1], TURNS[:3], [{"no": "role"}] * 2])
def test_the_database_refuses_what_is_no_conversation(messages: object) -> None:
    project = make_project()
    conversation_task(project)
    with pytest.raises(IntegrityError, match="prompt_messages"), transaction.atomic():
        Prompt.objects.update(parts={"messages": messages})
