"""The admins' pages in Chromium: live figures, charts, uploads, invites."""

import json
import re
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from labelapp.models import RATING_FIELDS, Invite, Membership, Prompt, Role, Run, Training
from labelapp.store import run_folder
from tests.e2e.labeling import sign_in
from tests.factories import PASSWORD, make_prompts
from tests.labelapp.steering_cast import Cast, make_cast

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def cast(store: Path) -> Cast:
    return make_cast()


@pytest.fixture
def page(watched_page: Page, live_server: LiveServer, cast: Cast) -> Page:
    """An admin's browser; addresses are given without the host."""
    sign_in(watched_page, live_server.url, cast.people["admin"].username)
    return watched_page


def running(run: Run, step: int) -> None:
    """Let a run look as if a worker were at it, ``step`` of 8 done."""
    Run.objects.filter(pk=run.pk).update(
        state="running",
        step=step,
        total=8,
        figures={"loss": 3.0 - step / 4},
        started_at=timezone.now() - timedelta(seconds=30),
        lease_token=uuid4(),
        lease_until=timezone.now() + timedelta(hours=1),
    )
    folder = run_folder(run.pk)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": n, "total": 8, "time": 0.0, "values": {"loss": 3.0 - n / 4}}
        for n in range(1, step + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def colour_of_curve(page: Page) -> str:
    """The colour that most of the chart's inked pixels have."""
    return str(
        page.locator("[data-chart] canvas").first.evaluate(
            """canvas => {
              const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              const seen = {};
              for (let i = 0; i < d.length; i += 4) {
                const grey = Math.abs(d[i] - d[i + 1]) < 24 && Math.abs(d[i + 1] - d[i + 2]) < 24;
                if (d[i + 3] > 200 && !grey) {
                  const k = [d[i], d[i + 1], d[i + 2]].join();
                  seen[k] = (seen[k] || 0) + 1;
                }
              }
              return Object.entries(seen).sort((a, b) => b[1] - a[1])[0]?.[0] ?? "none";
            }"""
        )
    )


def test_a_running_stage_and_its_chart_move_without_a_reload(
    page: Page, live_server: LiveServer, cast: Cast
) -> None:
    running(cast.run, step=4)
    page.goto(f"{live_server.url}/p/garden/trainings/{cast.training.pk}/")
    expect(page.locator(".stage.running")).to_contain_text("Step 4 of 8")
    chart = page.locator("[data-chart]").first
    expect(chart.locator("[data-legend]")).to_contain_text("Train 2Step 4")
    chart.evaluate("figure => { figure.dataset.marked = 'yes'; }")

    running(cast.run, step=6)
    expect(page.locator(".stage.running")).to_contain_text("Step 6 of 8", timeout=6_000)
    expect(chart.locator("[data-legend]")).to_contain_text("Train 1.5Step 6", timeout=6_000)
    expect(chart).to_have_attribute("data-marked", "yes")  # the same node: no flicker

    Run.objects.filter(pk=cast.run.pk).update(
        state="failed", error="Killed.", lease_token=None, lease_until=None
    )
    Training.objects.update(state="failed", finished_at=timezone.now())
    expect(page.get_by_text("Killed.")).to_be_visible(timeout=6_000)
    expect(page.locator("[data-running]")).to_have_count(0)
    page.get_by_role("button", name="Go on from the last checkpoint").click()
    expect(page.locator("#messages")).to_contain_text("It goes on from the last checkpoint.")


def test_a_chart_tells_values_under_the_pointer_and_as_a_table_in_both_themes(
    page: Page, live_server: LiveServer, cast: Cast
) -> None:
    running(cast.run, step=8)
    page.emulate_media(color_scheme="light")
    page.goto(f"{live_server.url}/p/garden/trainings/{cast.training.pk}/")
    chart = page.locator("[data-chart]").first
    expect(chart.locator("canvas")).to_be_visible()
    over = chart.locator(".u-over")
    over.hover(position={"x": 2, "y": 20})
    expect(chart.locator("[data-legend]")).to_contain_text("Train 2.75Step 1")
    page.mouse.move(0, 0)
    expect(chart.locator("[data-legend]")).to_contain_text("Train 1Step 8")

    chart.locator("summary").click()
    rows = chart.locator("tbody tr")
    expect(rows).to_have_count(8)
    assert rows.first.locator("td").all_inner_texts() == ["1", "2.75"]
    expect(chart.locator("[data-summary]")).to_have_text(
        "Train: 2.75 at first, 1 now, between 1 and 2.75."
    )

    light = colour_of_curve(page)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    dark = colour_of_curve(page)
    assert light == "42,85,194", "the accent of tokens.css on paper"
    assert dark == "148,180,255", "the accent of tokens.css in the dark"


def test_the_counts_of_a_new_round_follow_what_is_ticked(
    page: Page, live_server: LiveServer, cast: Cast
) -> None:
    make_prompts(cast.project, 3)
    Prompt.objects.filter(pk=Prompt.objects.latest("pk").pk).update(kind="user", use_case="chat")
    page.goto(f"{live_server.url}/p/garden/rounds/new/")
    counts = page.locator("#round-counts")
    expect(counts).to_contain_text(f"{Prompt.objects.count()} prompts fit.")
    page.get_by_role("checkbox", name="User-based").check()
    expect(counts).to_contain_text("1 prompt fits.")
    expect(page.locator("#count-use_cases-open_qa")).to_have_text("0")
    expect(page.locator("#count-use_cases-chat")).to_have_text("1")
    page.get_by_role("checkbox", name="User-based").uncheck()
    page.get_by_label("Open QA").check()
    expect(counts).to_contain_text(f"{Prompt.objects.count() - 1} prompts fit.")


def test_what_is_folded_in_a_new_round_opens_by_keyboard_and_where_it_is_wrong(
    page: Page, live_server: LiveServer, cast: Cast
) -> None:
    cast.project.rounds.update(state="closed", rating_fields=list(RATING_FIELDS))
    page.goto(f"{live_server.url}/p/garden/rounds/new/")
    assert page.locator("details.fold[open]").count() == 0
    assert page.evaluate("document.documentElement.scrollHeight") < 1500
    fold = page.locator("#fold-answers")
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Temperature")).to_be_visible()
    page.get_by_label("Temperature").fill("7")
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Temperature")).to_be_hidden()
    page.get_by_role("button", name="Open the round").click()
    expect(page.get_by_label("Temperature")).to_be_focused()
    expect(fold).to_have_attribute("open", "")


def test_a_file_is_looked_at_before_it_is_added(
    page: Page, live_server: LiveServer, tmp_path: Path
) -> None:
    file = tmp_path / "own.csv"
    file.write_text("text,kind\nName a lake.,plain\nName a lake.,plain\nName a sea.,odd\n")
    page.goto(f"{live_server.url}/p/garden/prompts/")
    page.get_by_role("link", name="Upload").click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Look at it first").click()
    expect(page.locator("main")).to_contain_text("Nothing has been written yet.")
    expect(page.locator("main")).to_contain_text("kind is 'odd'")
    assert not Prompt.objects.filter(text="Name a lake.").exists()
    page.get_by_role("button", name="Add 1 prompt").click()
    expect(page.locator("#messages")).to_contain_text("1 prompt added.")
    expect(page.locator("main")).to_contain_text("Name a lake.")


def test_an_invite_link_is_copied_and_makes_a_member(
    page: Page, browser: Browser, live_server: LiveServer
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{live_server.url}/p/garden/people/")
    page.get_by_label("For whom").fill("Rosa")
    page.locator(".invite-form [name=role]").select_option("researcher")
    page.locator(".invite-form").get_by_role("button", name="Make a link").click()
    page.get_by_role("button", name="Copy").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.locator("#link-once").input_value()
    page.reload()
    expect(page.locator("#link-once")).to_have_count(0)
    expect(page.locator("main")).to_contain_text("Rosa")
    with browser.new_context() as fresh:
        theirs = fresh.new_page()
        theirs.goto(link)
        theirs.locator("[name=username]").fill("rosa")
        theirs.locator("[name=full_name]").fill("Rosa R")
        for field in theirs.locator("input[type=password]").all():
            field.fill(PASSWORD)
        theirs.locator("main button.primary").click()
        theirs.wait_for_url(lambda now: "/p/garden/" in now)
    assert Invite.objects.get().used_by is not None
    assert Membership.objects.get(user__username="rosa").role == Role.RESEARCHER


def test_a_person_is_changed_in_a_dialog(page: Page, live_server: LiveServer, cast: Cast) -> None:
    page.goto(f"{live_server.url}/p/garden/people/")
    page.get_by_role("button", name=f"Change {cast.people['labeler']}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Make a link").click()
    expect(dialog.locator("#link-once")).to_have_value(re.compile(r"http://.+/reset/.+"))
    dialog.get_by_role("button", name="Deactivate").click()
    expect(page.locator("#messages")).to_contain_text("can no longer sign in.")
    cast.people["labeler"].refresh_from_db()
    assert not cast.people["labeler"].is_active


def test_a_round_is_closed_only_after_asking(
    page: Page, live_server: LiveServer, cast: Cast
) -> None:
    page.goto(f"{live_server.url}/p/garden/rounds/1/")
    page.get_by_role("button", name="Close the round").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Keep it open").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Close the round").click()
    dialog.get_by_role("button", name="Close the round").click()
    expect(page.locator("#messages")).to_contain_text("Round 1 is closed.")
    cast.round.refresh_from_db()
    assert cast.round.state == "closed"
