"""What people see where something cannot be: a page that says what to do."""

import pytest
from django.template.loader import render_to_string
from django.test import Client

from labelapp.models import Project, User
from tests import factories
from tests.labelapp.steering_cast import signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return factories.make_project()


@pytest.fixture
def labeler(project: Project) -> User:
    return factories.make_member(project, username="lena")


def test_next_takes_a_post(project: Project, labeler: User) -> None:
    refused = signed_in(labeler).get("/p/garden/work/next/")
    assert refused.status_code == 405
    text = refused.content.decode()
    assert "There is no page at this address" in text
    assert "Nothing was changed" in text


@pytest.mark.parametrize(
    ("pressed_on", "leads_to"),
    [
        ("http://testserver/p/garden/history/", "http://testserver/p/garden/history/"),
        ("http://elsewhere.example/p/garden/work/", "/"),
        ("", "/"),
    ],
)
def test_a_button_pressed_while_signed_out_leads_back_to_its_page(
    labeler: User, pressed_on: str, leads_to: str
) -> None:
    client = Client(headers={"referer": pressed_on} if pressed_on else {})
    asked = client.post("/p/garden/work/next/")
    sent = {"username": "lena", "password": factories.PASSWORD}
    assert client.post(asked["Location"], sent)["Location"] == leads_to
    assert client.get(leads_to, follow=True).status_code == 200


def test_the_page_for_broken_things_needs_no_database(labeler: User) -> None:
    text = render_to_string("500.html", {})
    assert "Something broke on our side" in text


@pytest.mark.parametrize("name", ["400", "403", "403_csrf", "404", "405", "409", "500"])
def test_every_error_page_says_what_to_do(name: str) -> None:
    text = render_to_string(f"{name}.html", {})
    assert "Go to your start page" in text
    assert "<h1>" in text
