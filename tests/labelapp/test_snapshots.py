"""A snapshot is frozen, complete, and named by what is in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from labelapp.errors import BadInput, SnapshotMismatch
from labelapp.models import Demonstration, Project, Ranking, Round, Snapshot, Task
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit, text_submit
from labelapp.services.prompts import split_of_author
from labelapp.services.snapshots import prompts_freeze, snapshot_freeze
from labelapp.store import snapshot_folder
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def demonstrate(project: Project, round_: Round, text: str = "Because.") -> Demonstration:
    labeler = make_member(project)
    make_task(round_)
    claimed = assignment_claim_next(project=project, labeler=labeler, kind="demonstration")
    assert claimed is not None
    return text_submit(
        assignment_id=claimed.pk, labeler=labeler, text=text, client_id=client_id(), active_ms=0
    )


def rank(
    project: Project, round_: Round, groups: list[list[str]] | None = None, **said: Any
) -> Ranking:
    labeler = make_member(project)
    make_task(round_, kind="ranking")
    claimed = assignment_claim_next(project=project, labeler=labeler, kind="ranking")
    assert claimed is not None
    return ranking_submit(
        assignment_id=claimed.pk,
        labeler=labeler,
        groups=groups or [["B"], ["A", "D"], ["C"]],
        client_id=client_id(),
        **said,
    )


def rows_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    text = (snapshot_folder(snapshot.name) / "rows.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_same_labels_give_the_same_name_and_more_labels_another() -> None:
    project = make_project()
    round_ = make_round(project)
    demonstrate(project, round_)
    first = snapshot_freeze(project=project, kind="demonstrations")
    again = snapshot_freeze(project=project, kind="demonstrations")
    assert again.pk == first.pk
    assert first.name.startswith("demonstrations-")
    assert len(first.name) == len("demonstrations-") + 12
    demonstrate(project, round_)
    more = snapshot_freeze(project=project, kind="demonstrations")
    assert more.name != first.name
    assert (first.rows, more.rows) == (1, 2)
    assert list(more.demonstrations.order_by("pk")) == list(Demonstration.objects.order_by("pk"))


def test_whether_simulated_labels_are_in_is_part_of_the_name() -> None:
    project = make_project()
    demonstrate(project, make_round(project))
    real = snapshot_freeze(project=project, kind="demonstrations")
    both = snapshot_freeze(project=project, kind="demonstrations", include_simulated=True)
    assert real.sha256 == both.sha256
    assert real.name != both.name


def test_surplus_labels_stay_out_and_simulated_ones_unless_asked_for() -> None:
    project = make_project()
    round_ = make_round(project)
    kept, surplus, simulated = (demonstrate(project, round_) for _ in range(3))
    Demonstration.objects.filter(pk=surplus.pk).update(surplus=True)
    Demonstration.objects.filter(pk=simulated.pk).update(simulated=True)
    plain = snapshot_freeze(project=project, kind="demonstrations")
    assert [row["id"] for row in rows_of(plain)] == [str(kept.pk)]
    asked = snapshot_freeze(project=project, kind="demonstrations", include_simulated=True)
    assert [row["id"] for row in rows_of(asked)] == [str(kept.pk), str(simulated.pk)]
    assert [row["simulated"] for row in rows_of(asked)] == [False, True]


def test_nothing_to_freeze_says_what_to_do() -> None:
    project = make_project()
    with pytest.raises(BadInput, match="Let labelers rank answers first"):
        snapshot_freeze(project=project, kind="comparisons")
    assert not Snapshot.objects.exists()


def test_another_projects_labels_never_get_in() -> None:
    mine, other = make_project("mine"), make_project("other")
    own = demonstrate(mine, make_round(mine))
    demonstrate(other, make_round(other))
    frozen = snapshot_freeze(project=mine, kind="demonstrations")
    assert [row["id"] for row in rows_of(frozen)] == [str(own.pk)]


def test_a_ranking_keeps_its_ties_its_shown_order_and_who_wrote_what() -> None:
    project = make_project()
    ranking = rank(project, make_round(project, k=4))
    (row,) = rows_of(snapshot_freeze(project=project, kind="comparisons"))
    shown = row["shown_order"]
    assert shown == [str(pk) for pk in ranking.assignment.shown_order]
    b, a, d, c = shown[1], shown[0], shown[3], shown[2]
    groups = row["rank_groups"]
    assert [sorted(group) for group in groups] == [[b], sorted([a, d]), [c]]
    outputs = row["outputs"]
    assert [output["sampling"]["index"] for output in outputs] == [0, 1, 2, 3]
    assert {output["policy"] for output in outputs} == {str(ranking.task.round.policy)}
    assert row["labeler"] == labeler_pseudonym(ranking.labeler_id)
    assert row["ratings"] is row["flags"] is row["strength"] is row["confidence"] is None


def test_no_row_names_a_person_and_the_pseudonym_needs_the_key(settings) -> None:
    project = make_project()
    label = demonstrate(project, make_round(project))
    (row,) = rows_of(snapshot_freeze(project=project, kind="demonstrations"))
    assert label.labeler is not None
    assert label.labeler.username not in json.dumps(row)
    before = labeler_pseudonym(label.labeler.pk)
    assert row["labeler"] == before
    settings.PSEUDONYM_KEY = "another key of this installation"
    assert labeler_pseudonym(label.labeler.pk) != before


def test_freezing_costs_the_same_queries_at_any_length() -> None:
    project = make_project()
    round_ = make_round(project)

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            snapshot_freeze(project=project, kind="comparisons")
        return len(seen)

    rank(project, round_)
    first = queries()
    for _ in range(6):
        rank(project, round_)
    assert queries() == first


def test_a_damaged_folder_is_told_and_never_overwritten() -> None:
    project = make_project()
    demonstrate(project, make_round(project))
    frozen = snapshot_freeze(project=project, kind="demonstrations")
    rows = snapshot_folder(frozen.name) / "rows.jsonl"
    rows.write_text("{}\n")
    with pytest.raises(SnapshotMismatch, match="rows.jsonl"):
        snapshot_freeze(project=project, kind="demonstrations")
    assert rows.read_text() == "{}\n"


def test_a_freeze_that_fails_half_way_leaves_no_folder(store: Path, monkeypatch) -> None:
    project = make_project()
    demonstrate(project, make_round(project))

    def explode(user_id: int) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr("labelapp.services.snapshots.labeler_pseudonym", explode)
    with pytest.raises(OSError, match="No space"):
        snapshot_freeze(project=project, kind="demonstrations")
    assert list((store / "snapshots").iterdir()) == []


def test_prompts_of_every_split_are_frozen_with_their_split() -> None:
    project = make_project()
    test_author = next(f"a{i}" for i in range(50) if split_of_author(f"a{i}") == "test")
    make_prompts(project, 2)
    make_prompts(project, 1, author=test_author)
    frozen = snapshot_freeze(project=project, kind="prompts")
    assert [row["split"] for row in rows_of(frozen)] == ["train", "train", "test"]
    assert snapshot_freeze(project=project, kind="prompts", include_simulated=True).pk == frozen.pk


def test_prompts_to_be_answered_keep_the_order_of_the_tasks() -> None:
    project = make_project()
    prompts = make_prompts(project, 3)
    backwards = project.prompts.order_by("-pk")
    frozen = prompts_freeze(project=project, prompts=backwards)
    assert [row["id"] for row in rows_of(frozen)] == [str(p.pk) for p in reversed(prompts)]
    assert not Task.objects.exists()
