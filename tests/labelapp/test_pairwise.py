"""A pair: the answers of two versions, their sides drawn, and a vote that nothing is trained on."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Assignment, Project, Role, Round, Run, Sample, Task, Vote
from labelapp.selectors.burndown import round_burndown
from labelapp.selectors.exports import export_lines
from labelapp.selectors.history import history, versions_of
from labelapp.selectors.lists import label_counts, work_by_person
from labelapp.selectors.pairs import PairResults, pair_results, wilson
from labelapp.selectors.progress import labeler_progress, round_progress
from labelapp.services.aftercare import correction_open, label_undo
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.labels import ranking_submit
from labelapp.services.rounds import round_close, round_open
from labelapp.services.runs import pair_sampling_queue, sampling_queue
from labelapp.services.samples import samples_import, unanswered_tasks_close
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.trainings import training_label_counts
from labelapp.services.votes import vote_submit
from labelapp.store import snapshot_folder
from labelapp.trainer_gateway import SampleRow
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)
from tests.labelapp.aftercare_cast import settle
from trainer.records import VoteRow, read_rows

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def pair_round(**fields: Any) -> Round:
    """An open round that compares its policy with an older version."""
    project = make_project()
    opponent = make_version(project, state="retired")
    make_version(project, state="current")
    return make_round(project, **{"opponent": opponent, "pairs_wanted": 3} | fields)


def claimed(round_: Round, labeler: Any = None) -> Assignment:
    labeler = labeler or make_member(round_.project)
    taken = assignment_claim_next(project=round_.project, labeler=labeler, kind="pairwise")
    assert taken is not None
    return taken


def vote(taken: Assignment, choice: str = "left", **said: Any) -> Vote:
    asked = {"assignment_id": taken.pk, "labeler": taken.labeler, "client_id": client_id()}
    return vote_submit(**asked | {"choice": choice} | said)


def voted(choice: str = "left", **fields: Any) -> Vote:
    """A vote on the only pair of a round."""
    round_ = pair_round(**fields)
    make_task(round_, "pairwise")
    return vote(claimed(round_), choice)


def client_of(label: Vote) -> Client:
    client = Client()
    client.force_login(label.labeler, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def ten_seconds(settings: Settings) -> None:
    settings.LABEL_GRACE_SECONDS = 10


# --- the round and its answers


def opened(**fields: Any) -> Round:
    project = make_project()
    make_prompts(project, 3, "author-train")
    opponent = make_version(project, state="retired")
    make_version(project, state="current")
    make_round(project, state="closed")  # has the instructions
    asked = {"demonstrations_wanted": 0, "rankings_wanted": 0, "pairs_wanted": 2}
    return round_open(
        project=project, opponent=opponent, pairs_split="train", **{**asked, **fields}
    )


def answer(task: Task, text: str) -> SampleRow:
    return SampleRow(str(task.prompt_id), 0, text, (5, 2), True, 1, 1.0, 16)


def test_a_round_of_pairs_draws_one_answer_of_each_version_to_each_prompt() -> None:
    round_ = opened(temperature=0.5)
    assert set(round_.tasks.values_list("kind", "state", "overlap")) == {("pairwise", "waiting", 1)}
    runs = pair_sampling_queue(round=round_)
    assert runs == list(round_.runs.order_by("created_at"))
    assert [run.inputs.get(role="model").version for run in runs] == [
        round_.policy,
        round_.opponent,
    ]
    assert {(r.settings["k"], r.settings["temperature"], r.for_pairs) for r in runs} == {
        (1, 0.5, True)
    }
    assert sampling_queue(round=round_) is None


def test_a_pair_opens_with_the_second_of_its_answers_and_only_once() -> None:
    round_ = opened()
    first, second = pair_sampling_queue(round=round_)
    one, other = round_.tasks.order_by("position")
    for _ in range(2):
        samples_import(run=first, rows=[answer(one, "Yes."), answer(other, "Yes.")])
    assert set(round_.tasks.values_list("state", flat=True)) == {"waiting"}
    for _ in range(2):
        samples_import(run=second, rows=[answer(one, "No.")])
    one.refresh_from_db()
    other.refresh_from_db()
    assert (one.state, other.state) == ("open", "waiting")
    assert sorted(one.samples.values_list("text", flat=True)) == ["No.", "Yes."]
    assert {s.version for s in one.samples.all()} == {round_.policy, round_.opponent}


def test_a_pair_of_which_one_version_could_not_answer_is_closed() -> None:
    round_ = opened()
    first, second = pair_sampling_queue(round=round_)
    one, other = round_.tasks.order_by("position")
    samples_import(run=first, rows=[answer(one, "Yes.")])
    assert unanswered_tasks_close(run=first) == 1
    samples_import(run=second, rows=[answer(one, "No."), answer(other, "No.")])
    assert unanswered_tasks_close(run=second) == 0
    assert [task.state for task in round_.tasks.order_by("position")] == ["open", "closed"]
    assert not other.samples.exists()


def test_answers_to_pairs_and_to_rankings_do_not_take_each_others_place() -> None:
    round_ = opened(rankings_wanted=1, k=2)
    ranking = round_.tasks.get(kind="ranking")
    run = sampling_queue(round=round_)
    assert run is not None and not run.for_pairs
    pairs = pair_sampling_queue(round=round_)
    assert run not in pairs
    rows = [SampleRow(str(ranking.prompt_id), i, "Yes.", (5,), True, 1, 1.0, 16) for i in (0, 1)]
    samples_import(run=run, rows=rows)
    assert set(Sample.objects.values_list("task", flat=True)) == {ranking.pk}
    assert unanswered_tasks_close(run=run) == 0
    assert round_.tasks.filter(kind="pairwise", state="waiting").count() == 2


def test_a_failed_side_goes_on_and_a_done_one_is_not_drawn_again() -> None:
    round_ = opened()
    first, second = pair_sampling_queue(round=round_)
    Run.objects.filter(pk=first.pk).update(state="failed", error="Its GPU was on fire.")
    Run.objects.filter(pk=second.pk).update(state="done")
    again = pair_sampling_queue(round=round_)
    assert [(run.pk, run.state) for run in again] == [(first.pk, "queued"), (second.pk, "done")]
    round_close(round=round_)
    assert pair_sampling_queue(round=round_) == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"opponent": None}, "opponent"),
        ({"opponent": "current"}, "opponent"),
        ({"opponent": "refused"}, "opponent"),
        ({"opponent": "reward"}, "opponent"),
        ({"opponent": "another project's"}, "opponent"),
        ({"pairs_split": "test"}, "pairs_split"),
        ({"pairs_split": "all"}, "pairs_split"),
        ({"pairs_wanted": -1}, "pairs_wanted"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_field(
    wrong: dict[str, Any], field: str
) -> None:
    project = make_project()
    make_prompts(project, 2)
    make_round(project, state="closed")
    versions: dict[Any, Any] = {
        None: None,
        "current": project.versions.get(state="current"),
        "refused": make_version(project, state="refused"),
        "reward": make_version(project, role="reward"),
        "another project's": make_version(make_project("field")),
        "good": make_version(project, state="retired"),
    }
    asked = {"pairs_wanted": 1, "opponent": "good", "pairs_split": "train"} | wrong
    asked["opponent"] = versions[asked["opponent"]]
    with pytest.raises(BadInput) as error:
        round_open(project=project, demonstrations_wanted=1, rankings_wanted=0, **asked)
    assert list(error.value.fields) == [field]
    assert not project.rounds.filter(state="open").exists()


# --- the side and the vote


def test_the_side_depends_on_task_and_labeler_is_drawn_evenly_and_stored() -> None:
    round_ = pair_round()
    labelers = [make_member(round_.project) for _ in range(40)]
    task = make_task(round_, "pairwise", overlap=40)
    of_policy = task.samples.get(version=round_.policy)
    on_left = 0
    for labeler in labelers:
        taken = claimed(round_, labeler)
        label = vote(taken)
        assert [label.left_id, label.right_id] == taken.shown_order
        assert set(taken.shown_order) == set(task.samples.values_list("pk", flat=True))
        on_left += label.left == of_policy
    assert 8 <= on_left <= 32  # 2 in 10,000 000 draws are further out


def test_the_same_submit_gives_the_same_vote_and_another_is_refused() -> None:
    round_ = pair_round()
    make_task(round_, "pairwise")
    taken = claimed(round_)
    once = client_id()
    assert vote(taken, client_id=once) == vote(taken, "right", client_id=once)
    with pytest.raises(StateConflict):
        vote(taken, "right")
    assert Vote.objects.get().choice == "left"


def test_a_vote_is_one_of_four_and_only_on_a_pair() -> None:
    round_ = pair_round(k=2)
    make_task(round_, "pairwise")
    taken = claimed(round_)
    with pytest.raises(BadInput, match="left, right, tie, both_bad"):
        vote(taken, "A")
    with pytest.raises(BadInput, match="Pair to compare, not Ranking"):
        ranking_submit(
            assignment_id=taken.pk,
            labeler=taken.labeler,
            groups=[["A"], ["B"]],
            client_id=client_id(),
        )
    make_task(round_, "ranking")
    ranked = assignment_claim_next(
        project=round_.project, labeler=make_member(round_.project), kind="ranking"
    )
    assert ranked is not None
    with pytest.raises(BadInput, match="Ranking, not Pair to compare"):
        vote(ranked)


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("vote_choice", {"choice": "A"}),
        ("as they were shown", {"sides": "swapped"}),
        ("as they were shown", {"sides": "same"}),
        ("as they were shown", {"labeler": "another"}),
        ("answers of two versions", {"versions": "same"}),
    ],
)
def test_the_database_refuses_what_no_page_can_have_shown(
    constraint: str, changes: dict[str, str]
) -> None:
    round_ = pair_round()
    task = make_task(round_, "pairwise")
    if "versions" in changes:
        task.samples.update(version=round_.policy)
    taken = claimed(round_)
    left, right = taken.shown_order
    if changes.get("sides") == "swapped":
        left, right = right, left
    elif changes.get("sides") == "same":
        left = right
    labeler = make_member(round_.project) if "labeler" in changes else taken.labeler
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Vote.objects.create(
            project=round_.project,
            task=task,
            assignment=taken,
            labeler=labeler,
            left_id=left,
            right_id=right,
            choice=changes.get("choice", "left"),
            client_id=client_id(),
        )


def test_the_database_refuses_a_round_of_pairs_without_another_version() -> None:
    round_ = pair_round()
    for wrong in ({"opponent": None}, {"opponent": round_.policy}):
        with pytest.raises(IntegrityError, match="round_opponent"), transaction.atomic():
            Round.objects.filter(pk=round_.pk).update(**wrong)


@pytest.mark.usefixtures("ten_seconds")
def test_the_database_keeps_a_vote_as_it_was() -> None:
    label = voted()
    with pytest.raises(IntegrityError, match="never rewritten"), transaction.atomic():
        Vote.objects.update(choice="right")
    settle()
    with pytest.raises(IntegrityError, match="never deleted"), transaction.atomic():
        label.delete()


# --- afterwards


@pytest.mark.usefixtures("ten_seconds")
def test_a_fresh_vote_counts_nowhere_and_a_settled_one_everywhere() -> None:
    label = voted()
    round_, project = label.task.round, label.project

    def seen() -> dict[str, int]:
        (kind,) = round_progress(round_)
        (work,) = work_by_person(round_)
        found = pair_results(round_)
        assert found is not None
        return {
            "round page": kind.submitted,
            "round page, labels": kind.labels,
            "results": found.votes,
            "own page": labeler_progress(project=project, labeler=label.labeler).votes,
            "work by person": work.votes,
            "data page": label_counts(project).votes,
            "burn-down": sum(round_burndown(round_)["series"]["pairwise"][::-1][:1]) == 0,
        }

    assert {name for name, count in seen().items() if count} == set()
    with pytest.raises(BadInput, match="no votes to freeze"):
        snapshot_freeze(project=project, kind="votes")
    settle()
    assert {name for name, count in seen().items() if count != 1} == set()


@pytest.mark.usefixtures("ten_seconds")
def test_a_vote_is_taken_back_within_ten_seconds_with_its_choice_kept() -> None:
    label = voted("tie")
    reopened = label_undo(assignment_id=label.assignment_id, labeler=label.labeler)
    assert (reopened.state, reopened.draft) == ("leased", {"choice": "tie"})
    assert not Vote.objects.exists()
    assert vote(reopened, "both_bad").choice == "both_bad"


def test_a_correction_is_a_new_version_and_the_first_is_kept() -> None:
    label = voted()
    opened_again = correction_open(assignment_id=label.assignment_id, labeler=label.labeler)
    assert opened_again.draft == {"choice": "left"}
    second = vote(opened_again, "right")
    assert (second.version, second.corrects) == (2, label)
    assert [v.choice for v in versions_of(second.assignment)] == ["right", "left"]
    (listed,) = history(project=label.project, labeler=label.labeler, kind="pairwise")
    assert listed.versions == 2  # type: ignore[attr-defined]
    found = pair_results(label.task.round)
    assert found is not None
    assert found.votes == 1


def test_where_the_versions_are_shown_a_vote_that_counts_is_locked() -> None:
    label = voted(reveal=True)
    with pytest.raises(StateConflict, match="locked"):
        correction_open(assignment_id=label.assignment_id, labeler=label.labeler)
    Assignment.objects.filter(pk=label.assignment_id).update(correcting_since=label.created_at)
    taken = Assignment.objects.get(pk=label.assignment_id)
    with pytest.raises(IntegrityError, match="locked"), transaction.atomic():
        vote(taken, "right")


@pytest.mark.usefixtures("ten_seconds")
def test_who_wrote_which_is_shown_once_the_vote_counts_and_only_where_the_round_says_so() -> None:
    label = voted(reveal=True)
    path = f"/api/p/garden/assignments/{label.assignment_id}/versions/"
    client = client_of(label)
    assert client.get(path).status_code == 409
    settle()
    names = {"left": str(label.left.version), "right": str(label.right.version)}
    assert client.get(path).json() == names
    history_page = client.get(f"/p/garden/history/{label.assignment_id}/").content.decode()
    assert f"{names['left']} wrote A, {names['right']} wrote B." in history_page
    assert "Correct this" not in history_page
    Round.objects.update(reveal=False)
    assert client.get(path).status_code == 409
    history_page = client.get(f"/p/garden/history/{label.assignment_id}/").content.decode()
    assert "wrote A" not in history_page
    assert "Correct this" in history_page


# --- the page and the API


def test_who_wrote_an_answer_is_in_neither_page_nor_api_before_the_vote() -> None:
    round_ = pair_round(reveal=True)
    task = make_task(round_, "pairwise")
    taken = claimed(round_)
    client = Client()
    client.force_login(taken.labeler, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/p/garden/task/{taken.pk}/").content.decode()
    seen = client.get(f"/api/p/garden/assignments/{taken.pk}/").content.decode()
    for version in (round_.policy, round_.opponent):
        assert version is not None
        for said in (page, seen):
            assert str(version) not in said
            assert str(version.run_id) not in said
            assert version.sha256 not in said
    for sample in task.samples.all():
        assert f'"{sample.pk}"' not in page + seen
        assert sample.text in page
    assert json.loads(seen)["step"] == "vote"
    assert [each["letter"] for each in json.loads(seen)["answers"]] == ["A", "B"]


def test_a_pair_is_claimed_and_voted_on_through_the_api_and_sent_twice_counts_once() -> None:
    round_ = pair_round()
    make_task(round_, "pairwise")
    client = Client()
    client.force_login(
        make_member(round_.project), backend="django.contrib.auth.backends.ModelBackend"
    )

    def post(path: str, body: dict[str, Any]) -> Any:
        return client.post(f"/api/p/garden/{path}", json.dumps(body), "application/json")

    taken = post("next/", {"kind": "pairwise"}).json()["assignment"]
    where = f"assignments/{taken['id']}/"
    body = {"client_id": str(client_id()), "choice": "both_bad"}
    assert post(f"{where}submit/", body | {"choice": "neither"}).status_code == 400
    assert post(f"{where}submit/", body | {"groups": [["A"], ["B"]]}).status_code == 400
    assert post(f"{where}submit/", body | {"all_bad": True}).status_code == 400
    assert not Vote.objects.exists()
    answers = [post(f"{where}submit/", body) for _ in range(2)]
    assert [a.json()["state"] for a in answers] == ["submitted", "submitted"]
    assert Vote.objects.get().choice == "both_bad"


def test_the_work_page_offers_pairs_and_says_when_they_wait_for_answers() -> None:
    round_ = pair_round()
    labeler = make_member(round_.project)
    client = Client()
    client.force_login(labeler, backend="django.contrib.auth.backends.ModelBackend")
    make_task(round_, "pairwise", state="waiting")
    assert (
        "1 pair waits for the answers of two models"
        in client.get("/p/garden/work/").content.decode()
    )
    for _ in range(2):
        make_task(round_, "pairwise")
    assert "Compare two answers" in client.get("/p/garden/work/").content.decode()  # the welcome
    claimed(round_, labeler)
    page = client.get("/p/garden/work/").content.decode()
    assert "Compare two answers" in page
    assert "<b>1</b><span>pair to compare</span>" in page


def test_the_words_of_a_pair_are_compared() -> None:
    round_ = pair_round()
    make_task(round_, "pairwise")
    taken = claimed(round_)
    client = Client()
    client.force_login(taken.labeler, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/p/garden/task/{taken.pk}/difference/?one=A&two=B").content.decode()
    assert "<del>" in page and "<ins>" in page


# --- what the votes say


@dataclass
class Poll:
    """A round with pairs; ``say`` hands in one vote for the policy, the opponent, a tie, both bad."""

    round: Round

    def pair(self, overlap: int = 1) -> Task:
        return make_task(self.round, "pairwise", overlap=overlap)

    def say(self, what: str) -> Vote:
        taken = claimed(self.round)
        left = Sample.objects.get(pk=taken.shown_order[0])
        sides = ["left", "right"] if left.version_id == self.round.policy_id else ["right", "left"]
        return vote(taken, dict(zip(("policy", "opponent"), sides, strict=True)).get(what, what))

    def results(self) -> PairResults:
        found = pair_results(self.round)
        assert found is not None
        return found


def test_the_win_rate_is_a_mean_over_prompts_with_ties_half_and_both_bad_apart() -> None:
    poll = Poll(pair_round())
    for said in (["policy"], ["policy", "opponent"], ["tie"], ["opponent"], ["both_bad"]):
        poll.pair(len(said))
        for what in said:
            poll.say(what)
    found = poll.results()
    assert (found.votes, found.wins, found.losses, found.ties, found.both_bad) == (6, 2, 2, 1, 1)
    assert found.policy_rate is not None and found.opponent_rate is not None
    assert (found.policy_rate.value, found.policy_rate.n) == (0.5, 4)  # 1, 1/2, 1/2, 0
    assert found.opponent_rate.value == 0.5


def test_each_version_has_its_own_rate_and_surplus_votes_do_not_count() -> None:
    poll = Poll(pair_round())
    for what in ("policy", "policy", "policy", "opponent"):
        poll.pair()
        poll.say(what)
    Vote.objects.filter(pk=Vote.objects.latest("pk").pk).update(surplus=True)
    found = poll.results()
    assert found.policy_rate is not None and found.opponent_rate is not None
    assert (found.policy_rate.value, found.opponent_rate.value) == (1.0, 0.0)
    assert found.policy_rate.high == 1.0
    assert round(found.policy_rate.low, 4) == 0.4385  # 3 of 3, by Wilson
    assert round(found.opponent_rate.high, 4) == 0.5615


def test_a_labeler_who_always_takes_the_left_one_is_seen() -> None:
    round_ = pair_round()
    for _ in range(12):
        make_task(round_, "pairwise")
        vote(claimed(round_), "left")
    found = Poll(round_).results()
    assert found.left_chosen is not None
    assert (found.left_chosen.value, found.left_chosen.n) == (1.0, 12)
    assert found.left_chosen.low > 0.5
    if found.rate_on_left is not None:
        assert found.rate_on_left.value == 1.0
    if found.rate_on_right is not None:
        assert found.rate_on_right.value == 0.0


def test_wilson_by_hand() -> None:
    assert wilson(0.0, 0) is None
    rate = wilson(0.7, 10)
    assert rate is not None
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.3968, 0.8922)


def test_the_results_cost_the_same_few_queries_however_many_votes() -> None:
    poll = Poll(pair_round())

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            pair_results(Round.objects.select_related("policy", "opponent").get(pk=poll.round.pk))
        return len(queries)

    poll.pair()
    poll.say("policy")
    before = cost()
    for _ in range(4):
        poll.pair()
        poll.say("tie")
    assert cost() == before <= 6


# --- the admin's pages


def admin_of(project: Project) -> Client:
    client = Client()
    client.force_login(
        make_member(project, Role.ADMIN), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def test_the_round_page_shows_the_win_rates_and_both_runs() -> None:
    poll = Poll(pair_round())
    poll.pair()
    poll.say("policy")
    waiting = make_task(poll.round, "pairwise", state="waiting")
    waiting.samples.all().delete()
    pair_sampling_queue(round=poll.round)
    page = admin_of(poll.round.project).get(f"/p/garden/rounds/{poll.round.number}/")
    text = page.content.decode()
    policy, opponent = str(poll.round.policy), str(poll.round.opponent)
    assert f"{policy} against {opponent}" in text
    assert "100.0%" in text and "0.0%" in text
    assert f"Pairs, {policy}" in text and f"Pairs, {opponent}" in text


def test_an_admin_opens_a_round_of_pairs_and_is_told_what_is_wrong() -> None:
    project = make_project()
    make_prompts(project, 2)
    opponent = make_version(project, state="retired")
    make_version(project, state="current")
    first = make_round(project, state="closed")
    form = {
        "demonstrations_wanted": 0, "rankings_wanted": 0, "k": 4, "overlap": 1, "temperature": 1,
        "max_new_tokens": 16, "instructions": first.instructions_id, "pairs_wanted": 2,
    }  # fmt: skip
    client = admin_of(project)
    wrong = client.post("/p/garden/rounds/new/", form | {"pairs_split": "train"})
    assert "Choose the version that the policy is compared with." in wrong.content.decode()
    wrong = client.post("/p/garden/rounds/new/", form | {"opponent": opponent.pk})
    assert "Only 0 prompts of that split fit" in wrong.content.decode()
    good = {"opponent": opponent.pk, "pairs_split": "train", "reveal": "on"}
    assert client.post("/p/garden/rounds/new/", form | good).status_code == 302
    opened_round = project.rounds.get(state="open")
    assert (opened_round.opponent, opened_round.reveal) == (opponent, True)
    assert opened_round.tasks.count() == opened_round.runs.count() == 2


# --- snapshots and exports


def test_votes_are_frozen_by_themselves_and_exported_as_battles() -> None:
    poll = Poll(pair_round())
    said = ["policy", "opponent", "tie", "both_bad"]
    for what in said:
        poll.pair()
        poll.say(what)
    frozen = snapshot_freeze(project=poll.round.project, kind="votes")
    rows = list(read_rows(snapshot_folder(frozen.name) / "rows.jsonl", VoteRow))
    labels = list(Vote.objects.order_by("pk"))
    assert [row.choice for row in rows] == [label.choice for label in labels]
    assert [row.left.id for row in rows] == [str(label.left_id) for label in labels]
    assert {row.left.policy for row in rows} | {row.right.policy for row in rows} == {
        str(poll.round.policy),
        str(poll.round.opponent),
    }
    assert list(frozen.votes.order_by("pk")) == labels
    lines = b"".join(export_lines(snapshot=frozen, format_name="arena")).splitlines()
    battles = [json.loads(line) for line in lines]
    winners = [line["winner"] for line in battles]
    assert winners[2:] == ["tie", "tie (bothbad)"]
    for line, winner in zip(battles, (poll.round.policy, poll.round.opponent), strict=False):
        assert line[line["winner"]] == str(winner)
    assert battles[0]["conversation_a"][-1]["content"] == labels[0].left.text


def test_no_vote_gets_into_what_a_reward_model_learns_from() -> None:
    label = voted()
    assert training_label_counts(project=label.project) == (0, 0)
    with pytest.raises(BadInput, match="no rankings"):
        snapshot_freeze(project=label.project, kind="comparisons")
