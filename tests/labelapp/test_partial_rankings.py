"""Rankings that leave answers out, say that all are bad, or say how much better the best is."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from labelapp.errors import BadInput
from labelapp.models import Assignment, Ranking, RankingPlace, User
from labelapp.selectors.exports import export_lines
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit
from labelapp.services.snapshots import snapshot_freeze
from tests.factories import client_id, make_member, make_project, make_round, make_task
from tests.labelapp.test_snapshots import rows_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def claimed(**fields: Any) -> tuple[User, Assignment]:
    project = make_project()
    make_task(make_round(project, **fields), "ranking")
    labeler = make_member(project)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    return labeler, assignment


def submit(of: tuple[User, Assignment], **said: Any) -> Ranking:
    labeler, assignment = of
    return ranking_submit(
        assignment_id=assignment.pk, labeler=labeler, client_id=client_id(), **said
    )


def exported(ranking: Ranking) -> tuple[dict[str, Any], int]:
    """The native row, and how many preference pairs come of it."""
    snapshot = snapshot_freeze(project=ranking.project, kind="comparisons")
    (row,) = rows_of(snapshot)
    pairs = b"".join(export_lines(snapshot=snapshot, format_name="trl-preference"))
    return row, len(pairs.splitlines())


def test_what_was_not_judged_is_stored_apart_and_is_in_no_pair() -> None:
    of = claimed()
    shown = [str(pk) for pk in of[1].shown_order]
    ranking = submit(of, groups=[["C"], ["A"]], not_judged=["B", "D"])
    groups = dict(RankingPlace.objects.values_list("shown", "group"))
    assert groups == {0: 1, 1: None, 2: 0, 3: None}
    row, pairs = exported(ranking)
    assert row["rank_groups"] == [[shown[2]], [shown[0]]]
    assert row["not_judged"] == [shown[1], shown[3]]
    assert len(row["outputs"]) == 4
    assert pairs == 1


def test_one_judged_answer_is_a_label_without_pairs() -> None:
    row, pairs = exported(submit(claimed(), groups=[["B"]], not_judged=["A", "C", "D"]))
    assert len(row["not_judged"]) == 3
    assert pairs == 0


@pytest.mark.parametrize(
    ("groups", "not_judged", "says"),
    [
        ([["A"], ["B"]], ["C"], "D not placed"),
        ([["A"], ["B"], ["C"], ["D"]], ["D"], "D is ranked and marked"),
        ([["A"], ["B"], ["C"]], ["D", "E"], "no answer E"),
        ([], ["A", "B", "C", "D"], "skip the task"),
    ],
)
def test_a_partial_ranking_must_name_what_it_leaves_out(
    groups: list[list[str]], not_judged: list[str], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        submit(claimed(), groups=groups, not_judged=not_judged)
    assert not Ranking.objects.exists()


def test_all_bad_is_another_thing_than_all_equal() -> None:
    row, pairs = exported(submit(claimed(), groups=[["A", "B", "C", "D"]], all_bad=True))
    assert (row["all_bad"], len(row["rank_groups"]), pairs) == (True, 1, 0)


def test_all_equal_is_not_all_bad() -> None:
    assert exported(submit(claimed(), groups=[["A", "B", "C", "D"]]))[0]["all_bad"] is False


def test_strength_is_exported_as_a_number() -> None:
    of = claimed(strength_asked=True)
    row, _ = exported(submit(of, groups=[["A"], ["B"], ["C"], ["D"]], strength=3))
    assert row["strength"] == 3.0


@pytest.mark.parametrize(("asked", "strength"), [(False, 2), (True, 0), (True, 5)])
def test_a_strength_that_was_not_asked_for_or_is_no_step_is_refused(
    asked: bool, strength: int
) -> None:
    with pytest.raises(BadInput, match="strength"):
        submit(claimed(strength_asked=asked), groups=[list("ABCD")], strength=strength)


@pytest.mark.parametrize("strength", [0, 5])
def test_the_database_refuses_a_strength_out_of_range(strength: int) -> None:
    ranking = submit(claimed(strength_asked=True), groups=[list("ABCD")])
    with pytest.raises(IntegrityError), transaction.atomic():
        Ranking.objects.filter(pk=ranking.pk).update(strength=strength)
