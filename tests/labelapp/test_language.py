"""Two languages: who gets which, and that a page in German holds no English and no number that a script cannot read."""

import re
from html.parser import HTMLParser

import pytest
from django.db import IntegrityError, transaction
from django.template.defaultfilters import date
from django.test import Client
from django.urls import reverse
from django.utils import translation
from django.utils.timezone import localtime

from labelapp.models import Invite, Role, Round, Run, User
from labelapp.services.assignments import assignment_claim_next
from labelapp.services.people import invite_create
from labelapp.services.tokens import token_create
from tests.factories import make_member, make_project, make_round, make_task, make_version
from tests.labelapp.steering_cast import HTMX, Cast, make_cast, signed_in, streamed

pytestmark = pytest.mark.django_db
GERMAN = {"accept-language": "de-DE,de;q=0.9,en;q=0.5"}
ENGLISH = re.compile(
    r"\b(the|and|of|to|you|your|with|is|are|has|have|not|no|none|by|for|from|this|that|it"
    r"|answers?|rounds?|tasks?|people|work|open|closed|write|rank|save[ds]?|back|close|show|add"
    r"|choose|ask|models?|keys|instructions|yes|left|since)\b",
    re.IGNORECASE,
)
TERMS = {"Open QA", "Closed QA"}
SAID = {"aria-label", "title", "placeholder", "alt"}
MACHINE = re.compile(
    r"^(data-(?!rest|failed|copied|template|label|series|x-label)\S+|value|max|min|step|id|for|href|action|hx-\S+|datetime)$"
)


class Reader(HTMLParser):
    """What a page says, without what people and models wrote; and attributes that scripts read."""

    VOID = frozenset({"input", "meta", "link", "br", "hr", "img", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[tuple[str, bool]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        found = {name: value or "" for name, value in attrs}
        classes = set(found.get("class", "").split())
        content = (
            "dir" in found
            and tag != "html"
            or "mono" in classes
            or "lang" in found
            and tag != "html"
        )
        content = content or tag in ("script", "style", "pre", "code", "kbd", "svg")
        hidden = content or any(each for _, each in self.open)
        self.attributes += [(name, text) for name, text in found.items() if MACHINE.match(name)]
        if not hidden or tag == "textarea":
            self.said += [text for name, text in found.items() if name in SAID]
        if tag not in self.VOID:
            self.open.append((tag, content))

    def handle_endtag(self, tag) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data) -> None:
        if not any(each for _, each in self.open):
            self.said.append(data)


def english(page: str) -> list[str]:
    """Texts of a page that look English."""
    said = [" ".join(text.split()) for text in Reader(page).said]
    return [text for text in said if text not in TERMS and ENGLISH.search(text)]


def german(user: User | None) -> Client:
    """A browser that asks for German."""
    client = Client(headers=GERMAN)
    if user is not None:
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def language_of(answer) -> str:
    found = re.search(r'<html lang="(\w+)"', answer.content.decode())
    assert found and answer.headers["Content-Language"] == found[1]
    return found[1]


# --- who gets which


def test_before_sign_in_the_browser_is_asked() -> None:
    assert language_of(Client().get("/sign-in/")) == "en"
    answer = Client(headers=GERMAN).get("/sign-in/")
    assert language_of(answer) == "de"
    assert "Anmelden" in answer.content.decode()
    assert "Accept-Language" in answer.headers["Vary"]
    assert language_of(Client(headers={"accept-language": "fr"}).get("/sign-in/")) == "en"


def test_a_stranger_switches_and_comes_back_to_the_same_page() -> None:
    client = Client()
    page = client.get("/sign-in/?next=/account/").content.decode()
    assert 'name="next" value="/sign-in/?next=/account/"' in page
    assert re.search(r'value="de" lang="de" aria-pressed="false">Deutsch<', page)
    answer = client.post("/language/", {"language": "de", "next": "/sign-in/?next=/account/"})
    assert answer.headers["Location"] == "/sign-in/?next=/account/"
    assert answer.cookies["django_language"]["httponly"]
    answer = client.get("/sign-in/")
    assert language_of(answer) == "de"
    assert re.search(r'value="de" lang="de" aria-pressed="true">Deutsch<', answer.content.decode())


def test_a_persons_choice_is_kept_and_goes_before_the_browser() -> None:
    lena = make_member(make_project(), username="lena")
    here = signed_in(lena)
    here.post("/language/", {"language": "de", "next": "/account/"})
    elsewhere = Client(headers={"accept-language": "en"})
    elsewhere.force_login(lena, backend="django.contrib.auth.backends.ModelBackend")
    assert language_of(elsewhere.get("/account/")) == "de"
    here.post("/language/", {"language": "", "next": "/account/"})
    assert language_of(elsewhere.get("/account/")) == "en"
    assert language_of(german(lena).get("/account/")) == "de"
    lena.refresh_from_db()
    assert lena.language == ""


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", ""]
)
def test_the_switch_leads_nowhere_else(back: str) -> None:
    answer = Client().post("/language/", {"language": "de", "next": back})
    assert answer.headers["Location"] == "/"


def test_a_language_that_is_not_there_is_refused() -> None:
    lena = make_member(make_project())
    answer = signed_in(lena).post("/language/", {"language": "xx"})
    assert answer.status_code == 400
    assert "There is no such language here." in answer.content.decode()
    with pytest.raises(IntegrityError, match="user_language"), transaction.atomic():
        User.objects.filter(pk=lena.pk).update(language="xx")


def test_errors_of_the_api_follow_accept_language_and_a_page_its_reader() -> None:
    project = make_project()
    lena = make_member(project, username="lena")
    _, token = token_create(project=project, labeler=lena)
    client = Client(headers={"authorization": f"Bearer {token}"})
    address = "/api/p/garden/next/"
    sent = {"data": {"kind": "x"}, "content_type": "application/json"}
    assert "is not a valid choice" in client.post(address, **sent).json()["error"]["message"]
    answer = client.post(address, headers=GERMAN, **sent)
    assert "ist keine gültige Option" in answer.json()["error"]["message"]
    User.objects.update(language="de")
    answer = signed_in(lena).post("/api/p/nowhere/next/", **sent)
    assert answer.json()["error"]["message"].startswith("Dieses Projekt gibt es nicht")
    assert answer.json()["error"]["code"] == "not_found"


def test_a_reason_for_a_skip_is_kept_in_one_language() -> None:
    project = make_project()
    make_task(make_round(project))
    lena = make_member(project)
    taken = assignment_claim_next(project=project, labeler=lena)
    assert taken is not None
    page = german(lena).get(f"/p/garden/task/{taken.pk}/").content.decode()
    assert 'value="The prompt makes no sense">Der Prompt ergibt keinen Sinn<' in page


# --- whole pages


def admin_pages(cast: Cast) -> list[str]:
    shown = {"pk": cast.training.pk}
    names = [
        "rounds", "round-new", "models", "prompts", "upload", "people", "instructions",
        "concerns", "data",
    ]  # fmt: skip
    return [
        *(reverse(name, args=["garden"]) for name in names),
        reverse("round", args=["garden", 1]),
        reverse("round-live", args=["garden", 1]),
        reverse("training", kwargs={"slug": "garden", **shown}),
        reverse("model", args=["garden", cast.version.pk]),
        reverse("upload-preview", args=["garden", cast.upload.pk]),
        reverse("concerns", args=["garden"]) + "?show=flags",
        reverse("concerns", args=["garden"]) + "?show=answered",
        reverse("prompts", args=["garden"]) + "?words=nothing-like-it",
        reverse("account"),
        reverse("password-change"),
        "/nowhere/",
    ]


def labeler_pages(cast: Cast) -> list[str]:
    done = cast.project.assignments.filter(state="submitted").order_by("pk")
    return [
        *(reverse(name, args=["garden"]) for name in ("work", "history", "live")),
        reverse("task", args=["garden", cast.assignment.pk]),
        *(reverse("history-label", args=["garden", each.pk]) for each in done),
        reverse("rounds", args=["garden"]),
        reverse("account"),
    ]


def expect_german(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code in (200, 403, 404), (address, answer.status_code)
    page = answer.content.decode()
    assert english(page) == [], address
    commas = [
        (n, v)
        for n, v in Reader(page).attributes
        if re.fullmatch(r"-?\d+[.,]\d+,?\d*", v) and "," in v
    ]
    assert not commas, address
    return page


@pytest.mark.slow
def test_the_pages_of_the_staff_hold_no_english(store) -> None:
    cast = make_cast()
    Round.objects.update(temperature=0.7, overlap=2, extra_overlap=1, quota=3, order="active")
    Run.objects.filter(stage="sft").update(
        state="failed", step=3, total=7, figures={"loss": 1234.5}, error="Kaputt."
    )
    make_version(cast.project, role="reward")
    for role in (Role.ADMIN, Role.RESEARCHER):
        client = german(cast.people[role])
        for address in admin_pages(cast):
            page = expect_german(client, address)
            if address.endswith("/rounds/1/"):
                assert "mit Temperatur 0,7" in " ".join(page.split())


@pytest.mark.slow
def test_the_pages_of_a_labeler_hold_no_english(store) -> None:
    cast = make_cast()
    Round.objects.update(
        live_prompting=True, rating_fields=["overall", "hallucination"], strength_asked=True
    )
    client = german(cast.people[Role.LABELER])
    for address in labeler_pages(cast):
        expect_german(client, address)
    round_ = Round.objects.get()
    for kind in ("ranking", "prompt"):
        lena = make_member(cast.project)
        fields = {"prompt": None, "asked_kind": "few_shot"} if kind == "prompt" else {}
        make_task(round_, kind, **fields)
        taken = assignment_claim_next(project=cast.project, labeler=lena, kind=kind)
        assert taken is not None
        page = expect_german(german(lena), f"/p/garden/task/{taken.pk}/")
        assert '"temperature"' not in page


def test_the_doors_hold_no_english() -> None:
    project = make_project()
    _, token = invite_create(project=project, role=Role.ADMIN, by=make_member(project, Role.ADMIN))
    stranger = german(None)
    for address in ("/sign-in/", f"/invite/{token}/", "/reset/x/y/", "/nowhere/"):
        expect_german(stranger, address)
    gone = stranger.get("/invite/gone/")
    assert gone.status_code == 410 and english(gone.content.decode()) == []
    wrong = stranger.post(f"/invite/{token}/", {"username": "a b", "password": "1"})
    assert english(wrong.content.decode()) == []


def test_a_date_is_written_as_its_reader_writes_it() -> None:
    admin = make_member(make_project(), Role.ADMIN)
    said = []
    for client in (signed_in(admin), german(admin)):
        shown = client.post("/p/garden/people/invite/", {"role": "labeler"}, headers=HTMX)
        day = localtime(Invite.objects.latest("pk").expires_at)
        said.append((shown.content.decode(), day))
    (english_page, day), (german_page, _) = said
    with translation.override("en"):  # the last request has left German behind
        assert date(day, "N j, Y") in english_page
    with translation.override("de"):
        assert f"Gilt einmal, bis {date(day, 'j. F Y')}." in german_page


@pytest.mark.slow
def test_what_is_exported_is_the_same_in_every_language(store) -> None:
    cast = make_cast()
    address = reverse("export", args=["garden", cast.snapshot.name, "native"])
    admin = cast.people[Role.ADMIN]
    assert streamed(german(admin).get(address)) == streamed(signed_in(admin).get(address))
