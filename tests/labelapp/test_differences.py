"""Where two answers differ, word by word, and who may see it."""

import pytest

from labelapp.models import Assignment, Sample
from labelapp.selectors.differences import word_difference
from labelapp.services.assignments import assignment_claim_next
from tests.factories import make_member, make_project, make_round, make_task
from tests.labelapp.steering_cast import signed_in


def pieces(first: str, second: str) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in word_difference(first, second)]


def test_words_that_changed_stand_beside_those_that_stayed() -> None:
    assert pieces("Boil the water now.", "Boil cold water now.") == [
        ("both", "Boil "),
        ("first", "the "),
        ("second", "cold "),
        ("both", "water now."),
    ]


def test_line_breaks_are_kept_and_are_no_difference() -> None:
    assert pieces("One two", "One\n\ntwo") == [("both", "One\n\ntwo")]


def test_languages_without_spaces_are_compared_by_their_signs() -> None:
    assert pieces("我喜欢喝茶。", "我喜欢喝水。") == [
        ("both", "我喜欢喝"),
        ("first", "茶"),
        ("second", "水"),
        ("both", "。"),
    ]


@pytest.mark.parametrize(("first", "second"), [("", ""), ("", "a b"), ("a b", ""), (" \n", "a b")])
def test_an_empty_answer_is_all_difference(first: str, second: str) -> None:
    assert "".join(text for _, text in pieces(first, second)).strip() == (first + second).strip()


def test_long_monotonous_answers_are_compared_at_once() -> None:
    assert pieces("spam " * 20_000, "spam " * 19_999 + "ham")[-1] == ("second", "ham")


@pytest.fixture
def assignment(db: None) -> Assignment:
    project = make_project()
    make_task(make_round(project, k=2), "ranking")
    claimed = assignment_claim_next(project=project, labeler=make_member(project))
    assert claimed is not None
    a, b = claimed.shown_order
    Sample.objects.filter(pk=a).update(text="Say <b>yes</b> now")
    Sample.objects.filter(pk=b).update(text="Say <script>no</script> now")
    return claimed


def test_the_page_shows_the_texts_as_text_with_words_for_screen_readers(
    assignment: Assignment,
) -> None:
    path = f"/p/garden/task/{assignment.pk}/difference/"
    answer = signed_in(assignment.labeler).get(path, {"one": "A", "two": "B"})
    html = answer.content.decode()
    assert answer.status_code == 200
    assert "&lt;b&gt;yes&lt;/b&gt;" in html.split("<del>")[1].split("</del>")[0]
    assert "&lt;script&gt;no" in html.split("<ins>")[1].split("</ins>")[0]
    assert "<script>" not in html
    assert "Only in A:" in html
    assert "Only in B:" in html


@pytest.mark.parametrize("asked", [{}, {"one": "A"}, {"one": "A", "two": "C"}])
def test_letters_that_are_not_there_are_refused(
    assignment: Assignment, asked: dict[str, str]
) -> None:
    path = f"/p/garden/task/{assignment.pk}/difference/"
    assert signed_in(assignment.labeler).get(path, asked).status_code == 400


def test_the_answers_of_someone_elses_task_are_not_found(assignment: Assignment) -> None:
    path = f"/p/garden/task/{assignment.pk}/difference/?one=A&two=B"
    other = signed_in(make_member(assignment.project))
    assert other.get(path).status_code == 404
