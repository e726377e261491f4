"""What researchers download: the snapshot's own bytes, and forms that TRL loads."""

import json
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from labelapp.errors import NotFound, SnapshotMismatch
from labelapp.models import Demonstration, Prompt, Role, Snapshot
from labelapp.selectors.exports import battle, export_lines, preference_pairs
from labelapp.services.snapshots import snapshot_freeze
from labelapp.store import snapshot_folder
from tests.factories import make_member, make_project, make_round, make_task
from tests.labelapp.steering_cast import demonstrate, rank, signed_in, streamed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

COLUMNS = [
    "prompt", "chosen", "rejected", "task_id", "prompt_group", "rank_gap",
    "annotator_hash", "policy_chosen", "policy_rejected", "split", "version",
]  # fmt: skip


def row(groups: list[list[str]], ids: str = "abcd") -> dict[str, Any]:
    """A native row of a ranking, as far as pairs need it."""
    outputs = [{"id": i, "text": f" says {i}", "policy": f"policy-{n}"} for n, i in enumerate(ids)]
    return {
        "id": "7",
        "task_id": "3",
        "prompt": [{"role": "user", "content": "Name three rivers."}],
        "outputs": outputs,
        "rank_groups": groups,
        "labeler": "hash",
        "split": "train",
    }


def pairs(groups: list[list[str]]) -> list[tuple[str, str, int]]:
    ids = "".join(sorted(sum(groups, [])))
    return [
        (p["chosen"][0]["content"][-1], p["rejected"][0]["content"][-1], p["rank_gap"])
        for p in preference_pairs(row(groups, ids))
    ]


def test_a_ranking_gives_every_untied_pair_and_how_far_apart_they_are() -> None:
    # b > a = d > c: of six pairs, one is a tie
    assert sorted(pairs([["b"], ["a", "d"], ["c"]])) == [
        ("a", "c", 1),
        ("b", "a", 1),
        ("b", "c", 2),
        ("b", "d", 1),
        ("d", "c", 1),
    ]


def test_nine_answers_without_ties_give_thirty_six_pairs_and_all_tied_none() -> None:
    assert len(pairs([[i] for i in "abcdefghi"])) == 36
    assert pairs([list("abc")]) == []


def test_a_pair_is_explicit_and_conversational_and_names_both_policies() -> None:
    (pair,) = preference_pairs(row([["b"], ["a"]], "ab"))
    assert list(pair) == COLUMNS
    assert pair["prompt"] == [{"role": "user", "content": "Name three rivers."}]
    assert pair["chosen"] == [{"role": "assistant", "content": " says b"}]
    assert pair["rejected"] == [{"role": "assistant", "content": " says a"}]
    assert (pair["policy_chosen"], pair["policy_rejected"]) == ("policy-1", "policy-0")
    assert (pair["prompt_group"], pair["task_id"]) == ("7", "3")


@pytest.mark.parametrize(
    ("groups", "all_bad", "winner"),
    [
        ([["a"], ["b"]], False, "model_b"),  # b stood first on the page
        ([["b"], ["a"]], False, "model_a"),
        ([["a", "b"]], False, "tie"),
        ([["a", "b"]], True, "tie (bothbad)"),
        ([["b"], ["a"]], True, "model_a"),
    ],
)
def test_a_ranking_of_two_is_a_battle_with_its_side_stored(
    groups: list[list[str]], all_bad: bool, winner: str
) -> None:
    of_two = row(groups, "ab") | {
        "prompt_id": "5",
        "shown_order": ["b", "a"],
        "all_bad": all_bad,
        "not_judged": [],
    }
    (line,) = battle(of_two)
    assert line["winner"] == winner
    assert (line["model_a"], line["model_b"]) == ("policy-1", "policy-0")
    assert line["conversation_a"][-1]["content"] == " says b"
    assert line["conversation_b"][0] == {"role": "user", "content": "Name three rivers."}
    assert line["turn"] == 1


def test_what_was_not_a_choice_between_two_is_no_battle() -> None:
    assert list(battle(row([["a"], ["b"], ["c"]], "abc"))) == []
    assert list(battle(row([["a"]], "ab") | {"not_judged": ["b"]})) == []


@pytest.fixture
def comparisons() -> Snapshot:
    cache.clear()
    project = make_project()
    round_ = make_round(project)
    for number in range(3):
        make_task(round_, "ranking")
        rank(project, make_member(project, username=f"labeler-{number}"))
    return snapshot_freeze(project=project, kind="comparisons")


def researcher(snapshot: Snapshot) -> Client:
    return signed_in(make_member(snapshot.project, Role.RESEARCHER))


def body(client: Client, snapshot: Snapshot, form: str) -> bytes:
    answer = client.get(f"/p/{snapshot.project.slug}/data/{snapshot.name}/{form}/")
    assert answer.status_code == 200
    assert answer.streaming
    assert answer["Content-Type"] == "application/x-ndjson"
    disposition = f'attachment; filename="{snapshot.name}.{form}.jsonl"'
    assert answer["Content-Disposition"] == disposition
    assert answer["X-Content-Type-Options"] == "nosniff"
    return streamed(answer)


def test_native_is_the_rows_file_byte_for_byte(comparisons: Snapshot) -> None:
    rows = (snapshot_folder(comparisons.name) / "rows.jsonl").read_bytes()
    assert body(researcher(comparisons), comparisons, "native") == rows
    assert len(rows.splitlines()) == comparisons.rows == 3


def test_the_preference_form_has_five_pairs_of_each_ranking_and_every_column(
    comparisons: Snapshot,
) -> None:
    text = body(researcher(comparisons), comparisons, "trl-preference").decode()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 3 * 5
    assert all(list(line) == COLUMNS for line in lines)
    assert len({line["prompt_group"] for line in lines}) == 3
    assert len({line["annotator_hash"] for line in lines}) == 3
    assert {line["policy_chosen"] for line in lines} == {"policy-0"}
    assert "labeler-0" not in text


def test_demonstrations_become_prompt_and_completion() -> None:
    project = make_project()
    make_task(make_round(project))
    demonstrate(project, make_member(project), "Because\u2028it is so.")
    snapshot = snapshot_freeze(project=project, kind="demonstrations")
    (line,) = body(researcher(snapshot), snapshot, "trl-prompt-completion").splitlines()
    exported = json.loads(line)
    asked = Demonstration.objects.get().prompt.text
    assert exported["prompt"] == [{"role": "user", "content": asked}]
    assert exported["completion"] == [{"role": "assistant", "content": "Because\u2028it is so."}]


def test_a_snapshot_has_only_the_forms_of_its_kind(comparisons: Snapshot) -> None:
    for form in ("trl-prompt-completion", "parquet"):
        with pytest.raises(NotFound, match="native, trl-preference"):
            export_lines(snapshot=comparisons, format_name=form)
    path = f"/p/garden/data/{comparisons.name}/trl-prompt-completion/"
    assert researcher(comparisons).get(path).status_code == 404


def test_later_labels_do_not_change_what_is_downloaded(comparisons: Snapshot) -> None:
    before = b"".join(export_lines(snapshot=comparisons, format_name="trl-preference"))
    Prompt.objects.update(text="Changed behind its back.")
    project = comparisons.project
    make_task(project.rounds.get(), "ranking")
    rank(project, make_member(project))
    assert b"".join(export_lines(snapshot=comparisons, format_name="trl-preference")) == before


def test_a_damaged_folder_is_told_and_nothing_is_sent(comparisons: Snapshot) -> None:
    path = snapshot_folder(comparisons.name) / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Answer", b"Answet", 1))
    with pytest.raises(SnapshotMismatch, match="not what was frozen"):
        export_lines(snapshot=comparisons, format_name="native")
    path.unlink()
    answer = researcher(comparisons).get(f"/p/garden/data/{comparisons.name}/native/")
    assert answer.status_code == 409
    assert "not in the store" in answer.content.decode()


def test_exports_are_limited_per_person(comparisons: Snapshot, settings: Settings) -> None:
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_THROTTLE_RATES": {"export": "2/hour"},
    }
    first, second = researcher(comparisons), researcher(comparisons)
    path = f"/p/garden/data/{comparisons.name}/native/"
    assert [first.get(path).status_code for _ in range(3)] == [200, 200, 429]
    refused = first.get(path)
    assert 0 < int(refused["Retry-After"]) <= 3601
    assert "Try again in" in refused.content.decode()
    assert second.get(path).status_code == 200
