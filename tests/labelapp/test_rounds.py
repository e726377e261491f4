"""A round is opened whole, with its tasks, or not at all."""

import pytest
from django.db import IntegrityError

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Round, Run, Task
from labelapp.selectors.progress import labeler_progress, round_progress
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import text_submit
from labelapp.services.prompts import split_of_author
from labelapp.services.rounds import instructions_add, round_close, round_open
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

TEST_AUTHOR = next(f"a{i}" for i in range(50) if split_of_author(f"a{i}") == "test")


def ready_project():
    project = make_project()
    make_version(project, state="current")
    instructions_add(project=project, body="Helpful first.")
    make_prompts(project, 5)
    return project


def test_opening_makes_tasks_and_asks_the_policy_for_answers() -> None:
    project = ready_project()
    round_ = round_open(
        project=project,
        demonstrations_wanted=3,
        rankings_wanted=4,
        k=3,
        overlap=2,
        overlap_tasks=1,
    )
    demonstrations = round_.tasks.filter(kind="demonstration")
    rankings = round_.tasks.filter(kind="ranking")
    assert {task.state for task in demonstrations} == {Task.State.OPEN}
    assert {task.state for task in rankings} == {Task.State.WAITING}
    assert sorted(rankings.values_list("overlap", flat=True)) == [1, 1, 1, 2]
    run = Run.objects.get(stage="sample")
    assert (run.round, run.state) == (round_, Run.State.QUEUED)
    assert run.settings["k"] == 3


def test_prompts_of_the_test_split_are_never_labeled() -> None:
    project = ready_project()
    held_out = make_prompts(project, 4, author=TEST_AUTHOR)
    assert {prompt.split for prompt in held_out} == {"test"}
    round_ = round_open(project=project, demonstrations_wanted=99, rankings_wanted=99)
    assert round_.tasks.filter(kind="ranking").count() == 5
    assert not round_.tasks.filter(prompt__in=held_out).exists()


def test_a_second_round_waits_for_the_first_to_close() -> None:
    project = ready_project()
    first = round_open(project=project, demonstrations_wanted=1, rankings_wanted=0)
    with pytest.raises(StateConflict, match="open already"):
        round_open(project=project, demonstrations_wanted=1, rankings_wanted=0)
    round_close(round=first)
    second = round_open(project=project, demonstrations_wanted=1, rankings_wanted=0)
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(StateConflict, match="closed already"):
        round_close(round=first)


def test_the_database_refuses_two_open_rounds() -> None:
    project = make_project()
    make_round(project)
    with pytest.raises(IntegrityError, match="round_one_open"):
        make_round(project)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"k": 1}, "k is 1"),
        ({"k": 10}, "k is 10"),
        ({"temperature": 3}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"kinds": ["few_shot"]}, "No prompt fits"),
        ({"demonstrations_wanted": 0}, "at least one"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(asked: dict[str, object], says: str) -> None:
    project = ready_project()
    with pytest.raises(BadInput, match=says):
        round_open(project=project, **{"demonstrations_wanted": 1, "rankings_wanted": 0} | asked)
    assert not Round.objects.exists()


def test_a_project_without_a_policy_or_instructions_cannot_open_a_round() -> None:
    project = make_project()
    make_prompts(project)
    with pytest.raises(StateConflict, match="policy"):
        round_open(project=project, demonstrations_wanted=1, rankings_wanted=0)
    make_version(project, state="current")
    with pytest.raises(StateConflict, match="instructions"):
        round_open(project=project, demonstrations_wanted=1, rankings_wanted=0)


@pytest.mark.slow
def test_work_in_hand_may_be_handed_in_after_the_round_closed() -> None:
    project = ready_project()
    round_ = round_open(project=project, demonstrations_wanted=1, rankings_wanted=0)
    labeler = make_member(project)
    assignment = assignment_claim_next(project=project, labeler=labeler)
    assert assignment is not None
    round_close(round=round_)
    label = text_submit(
        assignment_id=assignment.pk, labeler=labeler, text="Just in time.", client_id=client_id()
    )
    assert label.surplus is False


def test_progress_is_counted_in_few_queries(django_assert_max_num_queries) -> None:
    project = make_project()
    round_ = make_round(project)
    for _ in range(3):
        make_task(round_)
    make_task(round_, "ranking", overlap=2)
    make_task(round_, "ranking", state=Task.State.WAITING)
    labeler = make_member(project)
    assignment = assignment_claim_next(project=project, labeler=labeler, kind="demonstration")
    assert assignment is not None
    text_submit(assignment_id=assignment.pk, labeler=labeler, text="One.", client_id=client_id())
    assignment_claim_next(project=project, labeler=labeler, kind="ranking")
    with django_assert_max_num_queries(4):
        demonstrations, rankings = round_progress(round_)
    assert (demonstrations.tasks, demonstrations.open, demonstrations.submitted) == (3, 2, 1)
    assert (demonstrations.labels, demonstrations.simulated_labels) == (1, 0)
    assert (rankings.waiting, rankings.open, rankings.in_work, rankings.wanted) == (1, 1, 1, 3)
    mine = labeler_progress(project=project, labeler=labeler)
    assert (mine.today, mine.demonstrations, mine.rankings, mine.in_round) == (1, 1, 0, 1)
