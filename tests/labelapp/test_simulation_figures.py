"""The figures of a demo round, from rows that were worked by hand."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from labelapp.models import (
    Assignment,
    Project,
    Prompt,
    Ranking,
    RankingPlace,
    Round,
    Run,
    Sample,
    Task,
    Training,
)
from labelapp.simulation.figures import (
    RoundFigures,
    StageFigures,
    answer_scores,
    figures_of,
    labeler_agreement,
    win_rate,
)
from labelapp.simulation.report import (
    report_plain,
    report_sentence,
    report_table,
    report_write,
)
from labelapp.simulation.statistics import Agreement, Interval
from tests.factories import (
    client_id,
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)


def rank(task: Task, groups: list[int], *, simulated: bool = True, surplus: bool = False) -> None:
    """A ranking of the task's samples, whose places are given in order of their index."""
    labeler = make_member(task.project)
    assignment = Assignment.objects.create(
        project=task.project,
        task=task,
        labeler=labeler,
        state=Assignment.State.SURPLUS if surplus else Assignment.State.SUBMITTED,
        lease_until=timezone.now(),
    )
    ranking = Ranking.objects.create(
        project=task.project,
        task=task,
        assignment=assignment,
        labeler=labeler,
        client_id=client_id(),
        simulated=simulated,
        surplus=surplus,
    )
    for shown, (sample, group) in enumerate(
        zip(task.samples.order_by("index"), groups, strict=True)
    ):
        RankingPlace.objects.create(ranking=ranking, sample=sample, group=group, shown=shown)


@pytest.mark.django_db
def test_agreement_is_that_of_simulated_labelers_on_tasks_done_twice() -> None:
    round_ = make_round(make_project(), k=3)
    twice = make_task(round_, "ranking", overlap=4)
    rank(twice, [0, 1, 2])
    rank(twice, [0, 2, 1])  # two of three pairs
    rank(twice, [2, 1, 0], simulated=False)
    rank(twice, [2, 1, 0], surplus=True)
    tied = make_task(round_, "ranking", overlap=2)
    rank(tied, [0, 0, 1])
    rank(tied, [0, 1, 2])  # two of two
    rank(make_task(round_, "ranking"), [2, 1, 0])
    rank(make_task(make_round(round_.project, state="closed", k=3), "ranking"), [0, 1, 2])
    assert labeler_agreement(round_) == Agreement(4, 5)


def test_a_win_rate_is_the_mean_over_prompts_that_both_answered() -> None:
    ours = {1: [1.0, 2.0], 2: [0.0], 3: [9.0]}
    theirs = {1: [1.0, 3.0], 2: [1.0], 4: [0.0]}
    rate = win_rate(ours, theirs)  # 0.375 and 0
    assert (rate.value, rate.low, rate.high, rate.n) == (0.1875, 0.0, 0.375, 2)


def run_of(project: Project, stage: str, seconds: float, **fields: object) -> Run:
    ended = timezone.now()
    return Run.objects.create(
        project=project,
        stage=stage,
        state=Run.State.DONE,
        started_at=ended - timedelta(seconds=seconds),
        finished_at=ended,
        **fields,
    )


def answer(run: Run, prompt: Prompt, texts: list[str]) -> None:
    version = run.project.versions.get()
    for index, text in enumerate(texts):
        Sample.objects.create(
            project=run.project,
            prompt=prompt,
            version=version,
            run=run,
            index=index,
            text=text,
            finished=True,
            seed=0,
            temperature=1.0,
            max_new_tokens=8,
        )


def lengths(texts: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in texts]


@pytest.mark.django_db
def test_scores_are_those_of_one_run_by_prompt() -> None:
    project = make_project()
    make_version(project)
    one, two = make_prompts(project, 2)
    run, other = (run_of(project, "sample", 1) for _ in range(2))
    answer(run, one, ["abc", "a"])
    answer(run, two, ["ab"])
    answer(other, one, ["abcdefg"])
    assert answer_scores(run, lengths) == {one.pk: [3.0, 1.0], two.pk: [2.0]}


@pytest.mark.django_db
def test_the_figures_of_a_round_come_from_its_own_runs() -> None:
    round_: Round = make_round(make_project(), k=3)
    project = round_.project
    training = Training.objects.create(project=project, round=round_, profile="test")
    run_of(project, "sample", 10, round=round_, figures={"tokens": 400})
    run_of(project, "sft", 4, training=training, figures={"tokens": 100})
    run_of(project, "reward", 5, training=training, figures={"tokens": 50, "valid_accuracy": 0.7})
    run_of(
        project, "ppo", 20, training=training, figures={"tokens": 80, "kl": 1.5, "valid_kl": 1.25}
    )
    (prompt,) = make_prompts(project, 1)
    evaluations = {}
    for name, texts in {"base": ["a"], "sft": ["abc"], "policy": ["ab"]}.items():
        evaluations[name] = run_of(project, "sample", 2, figures={"tokens": 6})
        answer(evaluations[name], prompt, texts)
    figures = figures_of(
        round_=round_,
        training=training,
        evaluations=evaluations,
        utility=lengths,
        began=timezone.now() - timedelta(seconds=90),
    )
    assert list(figures.stages) == [
        *("sample", "sft", "reward", "ppo"),
        *("test_base", "test_sft", "test_policy"),
    ]
    assert figures.stages["sample"].seconds == pytest.approx(10)
    assert figures.stages["sample"].tokens_per_second == pytest.approx(40)
    assert figures.stages["test_policy"].tokens == 6
    assert (figures.rm_accuracy, figures.kl) == (0.7, 1.25)
    assert figures.win_rate_vs_base.value == 1.0
    assert figures.win_rate_vs_sft == Interval(0.0, 0.0, 0.0, 1)
    assert figures.total_seconds == pytest.approx(90, abs=5)


FIGURES = RoundFigures(
    round=3,
    stages={"sample": StageFigures(100.0, 38_400), "sft": StageFigures(0.0, 0)},
    demonstrations=272,
    rankings=240,
    rm_accuracy=0.6543,
    labeler_agreement=Agreement(146, 200),
    kl=1.234,
    win_rate_vs_sft=Interval(0.61, 0.55, 0.67, 69),
    win_rate_vs_base=Interval(0.7, 0.64, 0.76, 69),
    total_seconds=1234.5,
)


def test_the_table_names_every_stage_and_every_result() -> None:
    lines = report_table(FIGURES).splitlines()
    assert lines[1].split() == ["Answers", "to", "rank", "100", "38,400", "384"]
    assert lines[2].split() == ["SFT", "0", "0", "0"]
    assert lines[3].split() == ["Whole", "round", "1234"]
    assert "65.4 %" in lines[5]
    assert "73.0 %  (200 pairs)" in lines[6]
    assert "1.23" in lines[7]
    assert "61.0 %  (95 % interval 55.0 to 67.0; 69 prompts)" in lines[8]
    assert len({line[:32] for line in lines}) == len(lines)


def test_the_file_holds_fractions_and_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "var" / "demo-round.json"
    for _ in range(2):
        report_write(FIGURES, path)
    plain = json.loads(path.read_text())
    assert plain == report_plain(FIGURES)
    assert plain["stages"]["sample"] == {
        "seconds": 100.0,
        "tokens": 38_400,
        "tokens_per_second": 384.0,
    }
    assert plain["win_rate_vs_sft"] == {"value": 0.61, "low": 0.55, "high": 0.67, "n": 69}
    assert (plain["labeler_agreement"], plain["kl"]) == (0.73, 1.234)
    assert [each.name for each in path.parent.iterdir()] == ["demo-round.json"]


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.51, 0.7, "preferred"), (0.5, 0.7, "open"), (0.2, 0.49, "worse")]
)
def test_learning_is_only_claimed_where_the_interval_says_so(
    low: float, high: float, word: str
) -> None:
    interval = Interval(0.5, low, high, 69)
    figures = RoundFigures(**{**vars(FIGURES), "win_rate_vs_sft": interval})
    assert word in report_sentence(figures)
