"""Keys follow the person; two actions never share one, and nothing is handed in by a bare key."""

import json
import re

import pytest
from django.test import Client

from labelapp.errors import BadInput
from labelapp.keys import ACTIONS, flag_keys, keys_checked, page_keys
from labelapp.models import User
from labelapp.services.accounts import account_keys_set
from tests.factories import make_member, make_project, make_round, make_task

FIRST = {action.name: action.first for action in ACTIONS}


def refused(**wanted: str) -> dict[str, str]:
    with pytest.raises(BadInput) as error:
        keys_checked(wanted)
    return error.value.fields


def test_the_first_keys_fit_together() -> None:
    assert keys_checked({}) == keys_checked(FIRST) == {}


def test_only_what_differs_is_kept() -> None:
    assert keys_checked(FIRST | {"pause": "Q "}) == {"pause": "q"}


def test_two_actions_of_one_page_never_share_a_key() -> None:
    assert "Ask or flag" in refused(pause="m")["pause"]
    assert "Pause" in refused(editor="p")["editor"]
    assert keys_checked({"pause": "m", "concern": "p"}) == {"pause": "m", "concern": "p"}


def test_actions_of_different_pages_may_share_a_key() -> None:
    assert keys_checked({"tie": "q", "editor": "q"}) == {"tie": "q", "editor": "q"}


@pytest.mark.parametrize("name", ["submit", "undo-submit"])
def test_nothing_is_handed_in_by_a_bare_key(name: str) -> None:
    assert "needs Ctrl" in refused(**{name: "s"})[name]
    assert keys_checked({name: "mod+s"}) == {name: "mod+s"}


@pytest.mark.parametrize("key", ["a", "i", "1", "9"])
def test_keys_of_the_answers_are_kept_for_them(key: str) -> None:
    assert "answers of a ranking" in refused(pause=key)["pause"]
    assert "answers of a ranking" in refused(tie=key)["tie"]


@pytest.mark.parametrize("key", ["?", "escape", "tab", "enter", "ab", "mod+", "mod+c", "  ", "é é"])
def test_keys_of_the_browser_and_of_the_overview_are_refused(key: str) -> None:
    assert refused(pause=key).keys() == {"pause"}


def test_a_page_gets_the_keys_of_its_own_actions() -> None:
    given = page_keys(chosen={"tie": "q"}, bare=False, page="ranking")
    assert given["bare"] is False
    actions = given["actions"]
    assert {"first": "=", "keys": "q"} in actions  # type: ignore[operator]
    assert {"first": "e", "keys": "e"} not in actions  # type: ignore[operator]


def test_keys_with_shift_are_taken_and_keys_of_the_browser_are_not() -> None:
    assert keys_checked({"list": "mod+shift+l"}) == {"list": "mod+shift+l"}
    assert refused(bold="mod+v").keys() == {"bold"}
    assert "Go to the editor" in refused(instructions="e")["instructions"]


def test_each_field_of_a_rating_may_have_another_letter() -> None:
    assert keys_checked({"rate-hallucination": "q"}) == {"rate-hallucination": "q"}
    swapped = {"rate-sexual": "t", "rate-violent": "k"}
    assert keys_checked(swapped) == swapped
    assert flag_keys({"rate-hallucination": "q"})["hallucination"] == "q"
    assert flag_keys({})["moral_judgement"] == "j"
    assert "Sexual content" in refused(**{"rate-violent": "k"})["rate-violent"]
    for key in ("3", "n", "mod+y"):  # also where what had it first has moved away
        assert (
            "a letter of its own" in refused(**{"rate-opinion": key, "aside": "q"})["rate-opinion"]
        )


# --- the account page


@pytest.fixture
def labeler(db: None) -> User:
    project = make_project()
    make_task(make_round(project))
    return make_member(project)


@pytest.fixture
def client(labeler: User) -> Client:
    client = Client()
    client.force_login(labeler, backend="django.contrib.auth.backends.ModelBackend")
    return client


def sent(**changed: str) -> dict[str, str]:
    wanted = FIRST | {"bare_keys": "on"} | changed
    return {f"keys-{name}": key for name, key in wanted.items() if key}


def test_keys_are_saved_and_reach_the_task(client: Client, labeler: User) -> None:
    answer = client.post("/account/keys/", sent(pause="Ctrl+J", bare_keys=""), follow=True)
    assert "Your keys are saved." in answer.content.decode()
    labeler.refresh_from_db()
    assert (labeler.keys, labeler.bare_keys) == ({"pause": "mod+j"}, False)
    text = client.post("/p/garden/work/next/", follow=True).content.decode()
    found = re.search(r'<script id="page-keys"[^>]*>(.*?)</script>', text)
    assert found
    given = json.loads(found[1])
    assert given["bare"] is False
    assert {"first": "p", "keys": "mod+j"} in given["actions"]


def test_a_conflict_is_told_beside_its_field_and_nothing_is_saved(
    client: Client, labeler: User
) -> None:
    answer = client.post("/account/keys/", sent(pause="m"))
    assert answer.status_code == 400
    text = answer.content.decode()
    assert "“Ask or flag” has this key already." in text
    assert 'value="m"' in text
    labeler.refresh_from_db()
    assert labeler.keys == {}


def test_all_keys_can_be_had_back(client: Client, labeler: User) -> None:
    account_keys_set(user=labeler, wanted={"pause": "q"}, bare=False)
    client.post("/account/keys/", {"first": "yes"})
    labeler.refresh_from_db()
    assert (labeler.keys, labeler.bare_keys) == ({}, True)
