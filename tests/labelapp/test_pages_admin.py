"""What an admin sees and does on the pages: rounds and training."""

import html
import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.forms import IntegerField
from django.test import Client
from django.utils import timezone

from labelapp.forms.rounds import RoundForm
from labelapp.models import RATING_FIELDS, ModelVersion, Project, Round, Run, Task, Training
from labelapp.models.rounds import RANGES
from labelapp.selectors.burndown import moments, remaining
from labelapp.selectors.registry import DRAWN_TEXT
from labelapp.services.prompts import split_of_author
from labelapp.services.rounds import instructions_add
from tests.factories import (
    make_member,
    make_project,
    make_prompts,
    make_round,
    make_task,
    make_version,
)  # fmt: skip
from tests.labelapp.steering_cast import (
    HTMX,
    admin_of,
    demonstrate,
    main_of,
    make_cast,
    rank,
    signed_in,
    text,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]

# --- rounds


def round_fields(**changes: object) -> dict[str, object]:
    return {
        "demonstrations_wanted": 2,
        "rankings_wanted": 2,
        "k": 3,
        "overlap": 1,
        "temperature": 0.7,
        "max_new_tokens": 32,
        **changes,
    }


@pytest.fixture
def ready() -> Project:
    """A project in which a round can be opened: a policy, instructions, four prompts."""
    project = make_project()
    make_version(project, state="current")
    instructions_add(project=project, body="Be helpful first.")
    make_prompts(project, 4)
    return project


def test_a_round_is_opened_from_the_form_with_its_tasks_and_its_sampling_run(
    ready: Project,
) -> None:
    client = admin_of(ready)
    instructions = ready.instructions.get()
    sent = round_fields(instructions=instructions.pk, kinds=["plain"], use_cases=["open_qa"])
    answer = client.post("/p/garden/rounds/new/", sent)
    assert answer["Location"] == "/p/garden/rounds/1/"
    opened = Round.objects.get()
    assert (opened.k, opened.temperature, opened.max_new_tokens) == (3, 0.7, 32)
    assert (opened.kinds, opened.use_cases) == (["plain"], ["open_qa"])
    assert opened.tasks.filter(kind=Task.Kind.RANKING, state=Task.State.WAITING).count() == 2
    assert opened.runs.get().stage == Run.Stage.SAMPLE
    page = main_of(client.get("/p/garden/rounds/1/"))
    assert "Waiting for answers" in page
    assert "policy-0" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 1}, "greater than or equal to 2"),
        ({"k": 10}, "less than or equal to 9"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"rankings_wanted": 5}, "Only 4 prompts fit this choice"),
        ({"use_cases": ["chat"]}, "Only 0 prompts fit this choice"),
        ({"overlap_tasks": 3}, "There are only 2 ranking tasks in this round."),
        ({"demonstrations_wanted": 0, "rankings_wanted": 0}, "this round has no tasks"),
    ],
)
def test_a_round_that_cannot_be_is_refused_with_a_sentence(
    ready: Project, changes: dict[str, object], said: str
) -> None:
    sent = round_fields(instructions=ready.instructions.get().pk, **changes)
    answer = admin_of(ready).post("/p/garden/rounds/new/", sent)
    assert answer.status_code == 400
    assert said in text(answer)
    assert not Round.objects.exists()


def test_how_a_round_hands_its_tasks_out_is_set_on_the_form(ready: Project) -> None:
    client = admin_of(ready)
    sent = round_fields(
        instructions=ready.instructions.get().pk,
        order="active",
        random_share=0.1,
        quota=7,
        weight_ranking=3,
        extra_overlap=2,
        disagreement=0.5,
    )
    client.post("/p/garden/rounds/new/", sent)
    opened = Round.objects.get()
    assert (opened.order, opened.random_share, opened.quota) == ("active", 0.1, 7)
    assert (opened.extra_overlap, opened.disagreement) == (2, 0.5)
    assert opened.kind_weights == {"demonstration": 1, "ranking": 3, "pairwise": 1}
    page = main_of(client.get("/p/garden/rounds/1/"))
    for said in ("up to 2 more", "Where judges disagree most", "at most 7 tasks"):
        assert said in page
    form = text(client.get("/p/garden/rounds/new/"))
    assert re.search(r'name="quota" value="7"', form)  # the next round starts like the last
    assert re.search(r'name="weight_ranking" value="3"', form)


def unfolded(page: str) -> set[str]:
    return set(re.findall(r'id="fold-(\w+)" open', page))


def test_what_is_rarely_asked_is_folded_unless_it_says_something(ready: Project) -> None:
    client = admin_of(ready)
    assert unfolded(text(client.get("/p/garden/rounds/new/"))) == set()
    defaults = round_fields(instructions=ready.instructions.get().pk) | {
        "temperature": 1.0,
        "max_new_tokens": 128,
        "rating_fields": list(RATING_FIELDS),
    }
    for changes, found in (
        ({"k": 1}, set()),
        ({"k": 1, "quota": 7}, {"handing_out"}),
        ({"k": 1, "weight_ranking": 2, "write_first": "on"}, {"handing_out", "ratings"}),
        ({"temperature": 3}, {"answers"}),
        ({"user_prompts_wanted": 2}, {"writing"}),
        ({"overlap_tasks": 300}, {"handing_out"}),
    ):
        answer = client.post("/p/garden/rounds/new/", defaults | changes)
        assert answer.status_code == 400, changes
        assert unfolded(text(answer)) == found, changes


def test_the_form_allows_what_the_service_allows() -> None:
    for name, field in RoundForm.base_fields.items():
        if isinstance(field, IntegerField):
            of = "weight" if name.startswith("weight") else name
            assert (field.min_value, field.max_value) == RANGES[of], name


def test_a_second_open_round_is_refused_and_the_first_stays_open(ready: Project) -> None:
    client = admin_of(ready)
    make_round(ready)
    assert "close that one first" in text(client.get("/p/garden/rounds/new/"))
    sent = round_fields(instructions=ready.instructions.get().pk)
    answer = client.post("/p/garden/rounds/new/", sent)
    assert answer.status_code == 400
    assert "A round is open already" in text(answer)
    assert Round.objects.get().state == Round.State.OPEN


def test_the_counts_follow_what_is_ticked_and_leave_test_prompts_out(ready: Project) -> None:
    test_author = next(f"a{n}" for n in range(99) if split_of_author(f"a{n}") == "test")
    make_prompts(ready, 5, author=test_author)
    client = admin_of(ready)
    page = text(client.get("/p/garden/rounds/new/counts/"))
    assert '<strong class="num">4</strong> prompts fit.' in page
    page = text(client.get("/p/garden/rounds/new/counts/?kinds=few_shot"))
    assert '<strong class="num">0</strong> prompts fit.' in page
    assert '<span class="tiny num" id="count-kinds-plain" hx-swap-oob="true">4</span>' in page
    assert 'id="count-use_cases-open_qa" hx-swap-oob="true">0</span>' in page


def test_a_round_page_counts_tasks_and_people_and_marks_what_is_simulated() -> None:
    project = make_project()
    round_ = make_round(project)
    for _ in range(3):
        make_task(round_)
    person, program = make_member(project, username="ann"), make_member(project, username="bot")
    program.simulated = True
    program.save()
    demonstrate(project, person)
    demonstrate(project, program)
    page = main_of(admin_of(project).get("/p/garden/rounds/1/"))
    assert "<b>2 <small>of 3</small></b>" in page
    assert "1 of these was made by a program." in page
    assert re.search(r"bot <span class=\"chip warn\">Simulated</span>", page)
    assert "Demonstrations: 1, at least 1 needed" in page  # the simulated one does not count
    assert "Rankings: 0, at least 1 needed" in page
    assert "(1 missing)" in page


def test_closing_a_round_ends_its_tasks_and_is_told_when_done_twice() -> None:
    project = make_project()
    make_task(make_round(project))
    client = admin_of(project)
    for said in ("Round 1 is closed.", "This round is closed already."):
        assert said in text(client.post("/p/garden/rounds/1/close/", follow=True))
    assert Task.objects.get().state == Task.State.CLOSED


def test_the_burndown_counts_down_at_each_label() -> None:
    assert remaining(3, [10.0, 20.0], [0.0, 10.0, 15.0, 25.0]) == [3, 2, 2, 1]
    assert remaining(1, [1.0, 2.0], [3.0]) == [0]
    assert moments(0.0, 30.0, [10.0, 20.0]) == [0.0, 10.0, 20.0, 30.0]
    assert moments(0.0, 9.0, [float(n) for n in range(1, 9)], points=4) == [0.0, 3.0, 6.0, 9.0]
    cast = make_cast()
    answer = signed_in(cast.people["admin"]).get("/p/garden/rounds/1/labels/").json()
    assert (answer["series"]["demonstration"][0], answer["series"]["demonstration"][-1]) == (2, 1)
    assert (answer["series"]["ranking"][0], answer["series"]["ranking"][-1]) == (1, 0)
    assert len(answer["t"]) == len(answer["series"]["ranking"])


def test_a_failed_sampling_run_says_why_and_can_be_tried_again() -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_, "ranking", state=Task.State.WAITING)
    run = Run.objects.create(
        project=project, stage="sample", state="failed", error="Disk full.", round=round_
    )
    client = admin_of(project)
    assert "Disk full." in main_of(client.get("/p/garden/rounds/1/"))
    client.post("/p/garden/rounds/1/answers/")
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED


# --- live regions


def test_a_poll_that_would_change_nothing_answers_without_content() -> None:
    cast = make_cast()
    client = signed_in(cast.people["admin"])
    path = f"/p/garden/trainings/{cast.training.pk}/"
    page = client.get(path).content.decode()
    url = re.search(r'hx-get="([^"]+)"', page)
    assert url is not None
    assert 'hx-trigger="every 2s"' in page
    assert client.get(html.unescape(url[1]), headers=HTMX).status_code == 204
    Run.objects.filter(pk=cast.run.pk).update(
        state="running",
        step=3,
        total=9,
        lease_token=uuid4(),
        lease_until=timezone.now() + timedelta(60),
    )
    changed = client.get(html.unescape(url[1]), headers=HTMX)
    assert changed.status_code == 200
    assert "Step 3 of 9" in changed.content.decode()


def test_the_page_stops_asking_when_nothing_runs() -> None:
    cast = make_cast()
    client = signed_in(cast.people["admin"])
    Training.objects.update(state="done")
    Run.objects.update(state="done")
    page = client.get(f"/p/garden/trainings/{cast.training.pk}/").content.decode()
    assert "hx-trigger" not in page
    Round.objects.update(state="closed", closed_at=timezone.now())
    assert "hx-trigger" not in client.get("/p/garden/rounds/1/").content.decode()


def test_a_poll_after_signing_out_reloads_the_page() -> None:
    cast = make_cast()
    answer = Client().get(f"/p/garden/trainings/{cast.training.pk}/live/", headers=HTMX)
    assert (answer.status_code, answer["HX-Refresh"]) == (204, "true")


# --- training


def test_the_button_is_shut_until_there_is_enough_then_starts_one_training() -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_)
    make_task(round_, "ranking")
    client, labeler = admin_of(project), make_member(project)
    demonstrate(project, labeler)
    button = re.compile(r'<button class="btn primary"( disabled)?>(?:<svg.*?</svg>)?Start training')

    def shut() -> bool:
        found = button.search(main_of(client.get("/p/garden/rounds/1/")))
        assert found is not None
        return found[1] is not None

    assert shut()
    refused = client.post("/p/garden/rounds/1/train/", follow=True)
    assert "1 more ranking on prompts" in text(refused)
    assert not Training.objects.exists()
    rank(project, labeler)
    assert not shut()
    answer = client.post("/p/garden/rounds/1/train/")
    training = Training.objects.get()
    assert answer["Location"] == f"/p/garden/trainings/{training.pk}/"
    assert not training.include_simulated
    assert shut()
    again = client.post("/p/garden/rounds/1/train/", follow=True)
    assert "A training of this project runs already" in text(again)


def test_simulated_labels_count_only_with_the_box_ticked() -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_)
    make_task(round_, "ranking")
    program = make_member(project)
    program.simulated = True
    program.save()
    demonstrate(project, program)
    rank(project, program)
    client = admin_of(project)
    assert "There is enough only with the simulated labels." in text(
        client.get("/p/garden/rounds/1/")
    )
    client.post("/p/garden/rounds/1/train/")
    assert not Training.objects.exists()
    client.post("/p/garden/rounds/1/train/", {"include_simulated": "on"})
    training = Training.objects.get()
    assert training.include_simulated
    page = text(client.get(f"/p/garden/trainings/{training.pk}/"))
    assert "With simulated labels" in page


def test_a_training_page_names_stages_snapshots_and_what_stands_in_for_text() -> None:
    cast = make_cast()
    client = signed_in(cast.people["admin"])
    page = text(client.get(f"/p/garden/trainings/{cast.training.pk}/"))
    for stage in ("Pretraining text", "SFT", "Reward model", "PPO-ptx"):
        assert stage in page
    assert cast.snapshot.name in page
    assert "1 demonstration" in page
    assert "1 ranking" in page
    assert str(DRAWN_TEXT) in page


def test_a_failure_is_told_with_its_reason_and_can_be_tried_again() -> None:
    cast = make_cast()
    client = signed_in(cast.people["admin"])
    path = f"/p/garden/trainings/{cast.training.pk}/"
    Run.objects.filter(pk=cast.run.pk).update(state="failed", error="<b>Killed</b> at step 3.")
    Training.objects.update(state="failed", finished_at=timezone.now())
    raw = client.get(path).content.decode()
    assert "&lt;b&gt;Killed&lt;/b&gt; at step 3." in raw
    assert "Go on from the last checkpoint" in raw
    client.post(f"{path}retry/")
    cast.run.refresh_from_db()
    assert (cast.run.state, Training.objects.get().state) == ("queued", "active")
    client.post(f"{path}stop/")
    assert Training.objects.get().state == Training.State.CANCELLED
    assert "has ended already" in text(client.post(f"{path}stop/", follow=True))


def test_a_finished_training_offers_its_policy_for_promotion() -> None:
    cast = make_cast()
    client = signed_in(cast.people["admin"])
    runs = {run.stage: run for run in cast.training.runs.all()}
    for stage, role, metrics in (
        ("sft", "policy", {}),
        ("reward", "reward", {"accuracy": 0.719}),
        ("ppo", "policy", {"kl": 4.8}),
    ):
        Run.objects.filter(pk=runs[stage].pk).update(state="done", figures=metrics, step=1, total=1)
        ModelVersion.objects.create(
            project=cast.project,
            role=role,
            number=cast.project.versions.count() + 1,
            run=runs[stage],
            sha256="1" * 64,
            metrics=metrics,
        )
    Run.objects.update(state="done")
    Training.objects.update(state="done")
    path = f"/p/garden/trainings/{cast.training.pk}/"
    policy = ModelVersion.objects.get(run=runs["ppo"])
    page = main_of(client.get(path))
    assert f"/p/garden/models/{policy.pk}/promote/" in page
    assert "71.9%" in page
    answer = client.post(f"/p/garden/models/{policy.pk}/promote/", {"next": path})
    assert answer["Location"] == path
    policy.refresh_from_db()
    assert policy.state == ModelVersion.State.CURRENT
    assert ModelVersion.objects.get(run=runs["reward"]).state == ModelVersion.State.CURRENT
    assert "/promote/" not in main_of(client.get(path))
