"""A demo round's steps: each finds what was done before; killed in the middle, the whole goes on."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from labelapp.models import ModelVersion, Project, Round, Run, Training, User
from labelapp.services.prompts import PromptInput, prompts_create
from labelapp.services.rounds import instructions_add, round_open
from labelapp.services.runs import base_queue, sampling_queue
from labelapp.simulation.client import SimulationError
from labelapp.simulation.crew import Plan
from labelapp.simulation.round import DemoRound, RoundPlan, one_at_a_time
from tests.e2e.stack import ROOT, stack
from tests.factories import make_project, make_version
from tests.models import tiny_model

AUTHORS = {"train": "author-train", "valid": "author 10", "test": "author 3"}
TOO_LONG = 600
"""Seconds for a command that takes one minute on an idle machine."""
COUNTS = {"train": 12, "valid": 4, "test": 5}


def make_garden() -> Project:
    """Prompts of each split, and instructions."""
    project = make_project("garden", min_demonstrations=2, min_rankings=2)
    for split, count in COUNTS.items():
        rows = [
            PromptInput("plain", "open_qa", AUTHORS[split], f"Name {split} fish number {i}.")
            for i in range(count)
        ]
        prompts_create(project=project, prompts=rows)
        assert project.prompts.filter(split=split).count() == count
    instructions_add(project=project, body="Be brief.")
    return project


def write_demonstrations(folder: Path, project: Project) -> Path:
    path = folder / "demonstrations.jsonl"
    rows = [
        {"prompt": prompt.text, "completion": f"A herring, for {prompt.pk} reasons."}
        for prompt in project.prompts.exclude(split="test")
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


class Steps(DemoRound):
    """A demo round that remembers what it said."""

    def __init__(self, project: Project, path: Path, url: str = "http://127.0.0.1:9") -> None:
        self.lines: list[str] = []
        self.nudges = 0
        plan = RoundPlan(
            Plan(url=url, demonstrations=path), rankings=6, both=2, k=2, profile="test"
        )
        super().__init__(project, plan, say=self.lines.append, nudge=self.nudged)

    def nudged(self) -> None:
        self.nudges += 1


@pytest.mark.django_db
@pytest.mark.usefixtures("store")
def test_it_closes_the_open_round_says_so_and_opens_its_own(tmp_path: Path) -> None:
    project = make_garden()
    make_version(project, state="current")
    other = round_open(project=project, demonstrations_wanted=3, rankings_wanted=3, k=2)
    project.demonstrations.create(prompt=project.prompts.all()[0], source="upload", text="Cod.")
    steps = Steps(project, write_demonstrations(tmp_path, project))
    round_ = steps.open_round()
    other.refresh_from_db()
    assert other.state == Round.State.CLOSED
    assert other.runs.get().state == Run.State.CANCELLED
    assert "Closing round 1, which is open; its labels stay." in steps.lines[0]
    assert "Opened round 2: 15 demonstrations, 6 rankings of 2 answers" in steps.lines[1]
    ranking = round_.tasks.filter(kind="ranking")
    assert ranking.count() == 6
    assert ranking.filter(overlap=2).count() == 2
    assert not round_.tasks.filter(prompt__split="test").exists()
    assert steps.nudges == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("store")
def test_a_second_start_goes_on_with_the_round_its_runs_and_its_training(tmp_path: Path) -> None:
    project = make_garden()
    base = make_version(project, state="current")
    path = write_demonstrations(tmp_path, project)
    first = Steps(project, path)
    round_ = first.open_round()
    run = first.evaluation("base", base, round_)
    assert (run.settings["k"], run.settings["max_new_tokens"], run.round) == (2, 48, None)
    sampling = round_.runs.get()
    Run.objects.update(state=Run.State.FAILED, error="Lost.")
    second = Steps(project, path)
    assert second.open_round() == round_
    assert "Going on with round 1" in second.lines[0]
    assert sampling_queue(round=round_) == sampling
    assert second.evaluation("base", base, round_) == run
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED
    second.close()
    assert Steps(project, path).open_round().number == 2


@pytest.mark.django_db
@pytest.mark.usefixtures("store")
def test_a_failed_run_ends_it_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    project = make_garden()
    base = make_version(project, state="current")
    steps = Steps(project, write_demonstrations(tmp_path, project))
    run = steps.evaluation("base", base, steps.open_round())
    assert steps.finished([run]) is False
    Run.objects.filter(pk=run.pk).update(state=Run.State.FAILED, error="Out of memory.")
    with pytest.raises(
        SimulationError, match=r"test prompts: Out of memory\. Start the demo round"
    ):
        steps.finished([run])


@pytest.mark.django_db
def test_what_cannot_be_done_gets_a_sentence(tmp_path: Path, settings: LazySettings) -> None:
    with pytest.raises(CommandError, match="There is no project 'garden'"):
        call_command("demo_round", project="garden")
    make_project()
    with pytest.raises(CommandError, match="does not answer at http://127.0.0.1:9: start it with"):
        call_command("demo_round", project="garden", url="http://127.0.0.1:9")
    with (
        one_at_a_time(Path(settings.LABELAPP_VAR) / "demo-round.lock"),
        pytest.raises(CommandError, match="under way already"),
    ):
        call_command("demo_round", project="garden")
    User.objects.filter(username="demo-round").update(simulated=False)
    with pytest.raises(CommandError, match="demo-round is a person's account"):
        call_command("demo_round", project="garden")


@pytest.mark.slow
def test_a_demo_that_runs_already_is_worked_with_and_the_commands_status_kept(
    tmp_path: Path,
) -> None:
    def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "labelapp.launch", *arguments],
            cwd=ROOT,
            env=os.environ | {"LABELAPP_VAR": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    with (tmp_path / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = launched("demo_round", "--help")
        wrong = launched("demo_round", "--profile", "none")
    assert done.returncode == 0
    assert "a demo runs already; working with it." in done.stdout
    assert "--rankings" in done.stdout
    assert wrong.returncode == 2


# --- the whole, on a tiny model


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "demo_round", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], words: str, lines: list[str]) -> bool:
    """Collect lines until one holds ``words``; False when the output ends first."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(2 * TOO_LONG + 60)
@pytest.mark.django_db(transaction=True)
def test_a_whole_round_killed_while_training_goes_on_and_ends_with_its_figures(
    store: Path, process_environment: dict[str, str], tmp_path: Path
) -> None:
    project = make_garden()
    base_queue(project=project)
    path = write_demonstrations(tmp_path, project)
    model = tiny_model("gpt2", tmp_path / "tiny")  # a Llama goes round in tests/e2e/test_loop.py
    environment = process_environment | {"LABELAPP_BASE_MODEL": str(model)}
    with stack(environment) as url:
        arguments = (
            *("--project", "garden", "--url", url, "--demonstrations", str(path)),
            *("--rankings", "10", "--both", "4", "--k", "3", "--max-new-tokens", "10"),
            *("--profile", "test", "--labelers", "2"),
        )
        lines: list[str] = []
        with start(environment, *arguments) as first:
            killer = threading.Timer(TOO_LONG, first.kill)
            killer.start()
            assert read_until(first, "Started training", lines), "".join(lines)
            first.kill()
            killer.cancel()
        with start(environment, *arguments) as second:
            killer = threading.Timer(TOO_LONG, second.kill)
            killer.start()
            said, _ = second.communicate()
            killer.cancel()
    assert second.returncode == 0, "".join(lines) + said
    assert "Going on with round 1" in said
    round_ = project.rounds.get()
    assert (round_.state, round_.rankings_wanted) == (Round.State.CLOSED, 10)
    assert Training.objects.get().state == Training.State.DONE
    assert project.rankings.filter(simulated=True).count() == 14
    assert project.demonstrations.filter(simulated=True).count() == 16
    assert ModelVersion.objects.filter(role="policy").count() == 3
    plain = json.loads((Path(os.environ["LABELAPP_VAR"]) / "demo-round.json").read_text())
    assert set(plain["stages"]) == {
        *("sample", "text", "sft", "reward", "ppo"),
        *("test_base", "test_sft", "test_policy"),
    }
    for stage in plain["stages"].values():
        assert stage["tokens"] > 0
        assert stage["tokens_per_second"] == pytest.approx(stage["tokens"] / stage["seconds"])
    assert 0 <= plain["rm_accuracy"] <= 1
    assert 0 < plain["labeler_agreement"] <= 1
    assert isinstance(plain["kl"], float)
    for name in ("win_rate_vs_sft", "win_rate_vs_base"):
        rate = plain[name]
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        assert rate["n"] == COUNTS["test"]
    assert "Whole round" in said
    with suppress(FileNotFoundError):
        (Path(os.environ["LABELAPP_VAR"]) / "demo-round.json").unlink()
