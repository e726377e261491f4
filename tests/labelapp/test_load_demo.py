"""The demo project is made once, whole, and its passwords are known to the owner alone."""

import stat
from pathlib import Path

import pytest
from django.contrib.auth import authenticate

from labelapp.models import Membership, Project, Round, Task
from labelapp.services.demo import demo_project_create, demo_round_open, demo_rows, signins_file
from tests.factories import make_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


@pytest.fixture(autouse=True)
def _own_folder(settings, tmp_path: Path) -> None:
    settings.LABELAPP_VAR = tmp_path


def test_the_demo_has_its_people_prompts_and_instructions() -> None:
    project, signins = demo_project_create()
    assert sorted(Membership.objects.values_list("role", flat=True)) == [
        "admin",
        "labeler",
        "labeler",
        "labeler",
        "researcher",
    ]
    assert project.prompts.count() == len(list(demo_rows("prompts.jsonl"))) >= 300
    assert project.instructions.get().number == 1
    assert len({each.password for each in signins}) == 5
    assert authenticate(None, username=signins[0].username, password=signins[0].password)


def test_the_sign_ins_file_is_readable_by_its_owner_alone() -> None:
    _, signins = demo_project_create()
    assert stat.S_IMODE(signins_file().stat().st_mode) == 0o600
    assert all(each.password in signins_file().read_text() for each in signins)


def test_loading_again_changes_nothing() -> None:
    demo_project_create()
    before = signins_file().read_text()
    project, signins = demo_project_create()
    assert signins == []
    assert signins_file().read_text() == before
    assert Project.objects.get() == project


def test_round_one_opens_when_the_base_model_is_there_and_only_once() -> None:
    project, _ = demo_project_create()
    assert demo_round_open(project) is None
    make_version(project, state="current")
    round_ = demo_round_open(project)
    assert round_ is not None
    labelable = project.prompts.exclude(split="test").count()
    for kind in (Task.Kind.DEMONSTRATION, Task.Kind.RANKING):
        assert round_.tasks.filter(kind=kind).count() == labelable
    assert demo_round_open(project) is None
    assert Round.objects.count() == 1
