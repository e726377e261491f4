"""A round of pairs from its answers to its win rates and exports; nothing is trained on a vote."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from labelapp.errors import BadInput
from labelapp.models import Project, Prompt, Role, Round, Run, Sample, Task, Vote
from labelapp.selectors.answers import answers_named
from labelapp.selectors.exports import export_lines
from labelapp.selectors.lists import people_list
from labelapp.selectors.pairs import pair_results, wilson
from labelapp.services.rounds import round_close, round_open
from labelapp.services.runs import pair_sampling_queue, sampling_queue
from labelapp.services.samples import samples_import, unanswered_tasks_close
from labelapp.services.snapshots import snapshot_freeze
from labelapp.services.trainings import training_label_counts
from labelapp.store import snapshot_folder
from labelapp.trainer_gateway import SampleRow
from tests.factories import (
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)
from tests.labelapp.pair_cast import Poll, claimed, pair_round, vote, voted
from trainer.records import VoteRow, read_rows

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


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


def test_an_answer_that_names_its_model_is_known_by_it_unless_the_prompt_asked() -> None:
    round_ = opened()
    run = pair_sampling_queue(round=round_)[0]
    first, second = round_.tasks.order_by("pk")
    Prompt.objects.filter(pk=second.prompt_id).update(text="Are you ChatGPT?")
    said = "I am not ChatGPT."
    samples_import(run=run, rows=[answer(first, said), answer(second, said)])
    named = dict(Sample.objects.values_list("task", "names_model"))
    assert named == {first.pk: "ChatGPT", second.pk: ""}
    assert answers_named(round_) == 1


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


# --- what the votes say


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


def test_the_list_of_people_counts_their_votes() -> None:
    label = voted()
    person = people_list(label.project).get(user=label.labeler)
    assert (person.votes, person.rankings, person.demonstrations) == (1, 0, 0)  # type: ignore[attr-defined]


def test_a_vote_on_an_answer_that_names_its_model_is_in_no_rate() -> None:
    poll = Poll(pair_round())
    for what in ("policy", "opponent", "opponent"):
        poll.pair()
        poll.say(what)
    seen = Vote.objects.earliest("pk").left
    Sample.objects.filter(pk=seen.pk).update(names_model="SmolLM")
    found = poll.results()
    assert (found.votes, found.wins, found.losses, found.named) == (3, 1, 2, 1)
    assert found.policy_rate is not None and found.opponent_rate is not None
    assert (found.policy_rate.value, found.policy_rate.n) == (0.0, 2)
    assert found.opponent_rate.value == 1.0
    assert found.left_chosen is not None and found.left_chosen.n == 2


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
    poll.pair()
    seen = poll.say("tie").left
    Sample.objects.filter(pk=seen.pk).update(names_model="SmolLM")
    waiting = make_task(poll.round, "pairwise", state="waiting")
    waiting.samples.all().delete()
    pair_sampling_queue(round=poll.round)
    page = admin_of(poll.round.project).get(f"/p/garden/rounds/{poll.round.number}/")
    text = page.content.decode()
    policy, opponent = str(poll.round.policy), str(poll.round.opponent)
    assert f"{policy} against {opponent}" in text
    assert "100.0%" in text and "0.0%" in text
    assert "1 vote is in no rate" in text and "1 answer says which model wrote it" in text
    assert "times per prompt" not in text and "Each ranking task" not in text
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
