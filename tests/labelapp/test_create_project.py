"""Production's way in: a project, its first admin, and the base model on its way."""

import re
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command

from labelapp.models import Membership, Project, Run, User

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def create(slug: str = "garden", admin: str = "ada") -> str:
    output = StringIO()
    call_command("create_project", slug, "The garden", admin=admin, stdout=output)
    return output.getvalue()


def test_the_password_is_told_once_and_works() -> None:
    found = re.search(r"ada signs in with (\S+)", create())
    assert found is not None
    assert authenticate(None, username="ada", password=found[1]) == User.objects.get()


def test_the_first_person_is_admin_and_the_base_model_is_on_its_way() -> None:
    create()
    member = Membership.objects.get()
    assert (member.project.slug, member.user.username, member.role) == ("garden", "ada", "admin")
    assert Run.objects.get().stage == Run.Stage.BASE


def test_somebody_who_is_there_keeps_the_password() -> None:
    create()
    kept = User.objects.get().password
    assert "signs in" not in create("orchard")
    assert User.objects.get().password == kept
    assert Membership.objects.filter(role="admin").count() == 2


@pytest.mark.parametrize(
    ("slug", "words"), [("garden", "There is a project 'garden' already"), ("a b", "cannot stand")]
)
def test_what_cannot_be_made_gets_a_sentence_and_leaves_nothing(slug: str, words: str) -> None:
    create()
    with pytest.raises(CommandError, match=words):
        create(slug, admin="eve")
    assert Project.objects.count() == 1
    assert not User.objects.filter(username="eve").exists()
