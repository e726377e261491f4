"""An uploaded file is read and shown before anything of it is written."""

import json

import pytest
from django.db import IntegrityError

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Demonstration, Project, Prompt, Upload
from labelapp.services.prompts import split_of_author
from labelapp.services.uploads import upload_apply, upload_discard, upload_preview
from tests.factories import make_member, make_project

pytestmark = pytest.mark.django_db


def preview(
    content: str | bytes,
    kind: str = "prompts",
    name: str = "a.jsonl",
    project: Project | None = None,
) -> Upload:
    project = project or make_project()
    by = make_member(project, "admin")
    data = content if isinstance(content, bytes) else content.encode()
    return upload_preview(project=project, kind=kind, file_name=name, content=data, by=by)


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_nothing_is_written_before_the_yes() -> None:
    upload = preview(lines({"text": "Name three rivers.", "use_case": "open_qa", "author": "ann"}))
    assert not Prompt.objects.exists()
    assert upload_apply(upload=upload) == 1
    prompt = Prompt.objects.get()
    assert (prompt.kind, prompt.use_case, prompt.author) == ("plain", "open_qa", "ann")
    assert prompt.split == split_of_author("ann")


def test_bad_rows_are_named_by_line_and_reason_and_the_good_ones_stay() -> None:
    upload = preview(
        lines({"text": "Fine."}, {"text": ""}, {"text": "Odd.", "kind": "riddle"}) + "\n{broken"
    )
    assert [row["text"] for row in upload.rows] == ["Fine."]
    assert [problem["line"] for problem in upload.problems] == [2, 3, 4]
    assert "text is missing" in upload.problems[0]["message"]
    assert "plain, few_shot, user" in upload.problems[1]["message"]
    assert "Not JSON" in upload.problems[2]["message"]


def test_duplicates_in_the_file_and_in_the_project_are_shown_as_such() -> None:
    project = make_project()
    upload_apply(upload=preview(lines({"text": "Name three rivers."}), project=project))
    again = preview(
        lines({"text": "name  three\nrivers."}, {"text": "New."}, {"text": "new."}),
        project=project,
    )
    assert [row["text"] for row in again.rows] == ["New."]
    assert [problem["duplicate"] for problem in again.problems] == [True, True]


def test_a_file_is_added_once() -> None:
    upload = preview(lines({"text": "Name three rivers."}))
    upload_apply(upload=upload)
    with pytest.raises(StateConflict, match="before: Added"):
        upload_apply(upload=upload)


def test_a_discarded_file_leaves_nothing() -> None:
    upload = preview(lines({"text": "Name three rivers."}))
    upload_discard(upload=upload)
    with pytest.raises(StateConflict):
        upload_apply(upload=upload)
    assert not Prompt.objects.exists()


def test_csv_with_quotes_and_pairs_is_read() -> None:
    pairs = json.dumps([{"query": "cat", "response": "animal"}]).replace('"', '""')
    upload = preview(
        "text,kind,instruction,pairs,query\n"
        f'"Sort, please: oak",few_shot,Sort the word.,"{pairs}",oak\n'
        "Only text,,,,\n",
        name="prompts.CSV",
    )
    assert upload.problems == []
    assert upload.rows[0]["parts"]["pairs"] == [{"query": "cat", "response": "animal"}]
    assert upload.rows[1]["text"] == "Only text"


@pytest.mark.parametrize("kind", ["few_shot", "user"])
def test_a_kind_without_its_fields_is_refused(kind: str) -> None:
    assert preview(lines({"text": "x", "kind": kind})).rows == []


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"\n\n"])
def test_a_file_that_cannot_be_read_is_refused_whole(content: bytes) -> None:
    with pytest.raises(BadInput):
        preview(content)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", lines({"text": "Fine."}) + "\n" + DEEP, "This is nested too deeply."),
        ("a.csv", f"text,pairs\nFine.,\nOdd.,{DEEP}\n", "pairs must hold JSON in a CSV file."),
    ],
)
def test_a_row_nested_too_deeply_is_named_and_the_good_ones_stay(
    name: str, content: str, message: str
) -> None:
    upload = preview(content, name=name)
    assert [row["text"] for row in upload.rows] == ["Fine."]
    assert [problem["message"] for problem in upload.problems] == [message]


def test_an_author_gets_no_more_than_two_hundred_prompts() -> None:
    upload = preview(lines(*({"text": f"Prompt {i}", "author": "ann"} for i in range(202))))
    assert len(upload.rows) == 200
    assert [problem["line"] for problem in upload.problems] == [201, 202]


def test_demonstrations_bring_their_prompts_along() -> None:
    project = make_project()
    upload = preview(
        lines(
            {"prompt": "Name a river.", "completion": "The Rhine."},
            {"prompt": "Name a river.", "completion": "The Nile."},
            {"prompt": "Name a river.", "completion": "The  Nile."},
            {"prompt": "No answer."},
            {"prompt": "Half a character.", "completion": "\ud800"},
        ),
        kind="demonstrations",
        project=project,
    )
    assert [problem["line"] for problem in upload.problems] == [3, 4, 5]
    assert upload_apply(upload=upload) == 2
    assert Prompt.objects.count() == 1
    assert set(Demonstration.objects.values_list("text", "source")) == {
        ("The Rhine.", "upload"),
        ("The Nile.", "upload"),
    }


def test_the_database_refuses_the_same_prompt_twice_in_a_project() -> None:
    project = make_project()
    row = {"project": project, "kind": "plain", "use_case": "chat", "author": "a"}
    Prompt.objects.create(text="x", fingerprint="f", split="train", **row)
    with pytest.raises(IntegrityError):
        Prompt.objects.create(text="y", fingerprint="f", split="train", **row)


def test_the_split_is_decided_by_the_author_alone_in_the_stated_shares() -> None:
    splits = [split_of_author(f"author {i}") for i in range(4000)]
    shares = {split: splits.count(split) / 4000 for split in ("train", "valid", "test")}
    assert abs(shares["train"] - 0.7) < 0.03
    assert abs(shares["valid"] - 0.1) < 0.03
    assert abs(shares["test"] - 0.2) < 0.03
