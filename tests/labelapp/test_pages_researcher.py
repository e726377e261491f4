"""What a researcher sees and does: counts, freezing, downloads, and reading along."""

import pytest
from django.test import Client

from labelapp.models import Demonstration, Role, Snapshot
from labelapp.pseudonyms import labeler_pseudonym
from tests.factories import make_member, make_project, make_round, make_task
from tests.labelapp.steering_cast import demonstrate, make_cast, signed_in, streamed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store")]


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_freezing_leaves_simulated_labels_out_unless_asked_for() -> None:
    project = make_project()
    round_ = make_round(project)
    make_task(round_)
    make_task(round_)
    people, program = make_member(project), make_member(project)
    program.simulated = True
    program.save()
    demonstrate(project, people)
    demonstrate(project, program)
    assert Demonstration.objects.filter(simulated=True).count() == 1
    client = signed_in(make_member(project, Role.RESEARCHER))
    page = text(client, "/p/garden/data/")
    assert "checked" not in page.split('name="include_simulated"')[1].split(">")[0]

    for sent in ({}, {"include_simulated": "on"}):
        answer = client.post("/p/garden/data/freeze/", {"kind": "demonstrations", **sent})
        assert answer.status_code == 302
    assert sorted(Snapshot.objects.values_list("include_simulated", "rows")) == [
        (False, 1),
        (True, 2),
    ]
    assert "With simulated labels" in text(client, "/p/garden/data/")


@pytest.mark.slow
def test_freezing_the_same_labels_again_says_so_and_makes_nothing() -> None:
    cast = make_cast()
    client = signed_in(cast.people["researcher"])
    before = Snapshot.objects.count()
    answer = client.post("/p/garden/data/freeze/", {"kind": "comparisons"}, follow=True)
    assert "Nothing is new since" in answer.content.decode()
    assert Snapshot.objects.count() == before


def test_freezing_nothing_says_what_to_do() -> None:
    project = make_project()
    client = signed_in(make_member(project, Role.RESEARCHER))
    answer = client.post("/p/garden/data/freeze/", {"kind": "comparisons"}, follow=True)
    assert "There are no rankings to freeze" in answer.content.decode()
    assert client.post("/p/garden/data/freeze/", {"kind": "prompts"}).status_code == 400


def test_the_page_names_each_snapshot_its_hash_and_its_downloads() -> None:
    cast = make_cast()
    page = text(signed_in(cast.people["researcher"]), "/p/garden/data/")
    assert cast.snapshot.name in page
    assert cast.snapshot.sha256 in page
    for form in ("native", "trl-preference"):
        assert f'href="/p/garden/data/{cast.snapshot.name}/{form}/"' in page
    assert f"{cast.snapshot.name}/trl-prompt-completion/" not in page


def test_rounds_trainings_and_models_can_be_read_but_not_steered() -> None:
    cast = make_cast()
    client = signed_in(cast.people["researcher"])
    for path in (
        "/p/garden/rounds/",
        "/p/garden/rounds/1/",
        f"/p/garden/trainings/{cast.training.pk}/",
        "/p/garden/models/",
        f"/p/garden/models/{cast.version.pk}/",
    ):
        page = text(client, path)
        inside = page.split("<main")[1].split("</main>")[0]
        assert "<form" not in inside, path


def test_labelers_stand_under_their_pseudonyms() -> None:
    cast = make_cast()
    client, labeler = signed_in(cast.people["researcher"]), cast.people["labeler"]
    pseudonym = labeler_pseudonym(labeler.pk)
    rows = streamed(client.get(f"/p/garden/data/{cast.snapshot.name}/native/")).decode()
    page = text(client, "/p/garden/rounds/1/")
    assert pseudonym in rows
    assert pseudonym in page
    assert labeler.username not in rows + page
    assert labeler.username in text(signed_in(cast.people["admin"]), "/p/garden/rounds/1/")
