"""Make the demo project on first start, and tell the sign-ins on every one."""

import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from labelapp.models import Run
from labelapp.services.demo import demo_project_create, demo_round_open, signins_file
from labelapp.services.runs import base_queue
from labelapp.tasks import run_execute


class Command(BaseCommand):
    help = "Create the demo project, its people, prompts, base model and round 1; safe to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--without-round", action="store_true", help="leave it to another to open a round"
        )

    def handle(self, *args: Any, without_round: bool = False, **options: Any) -> None:
        project, made = demo_project_create()
        if made:
            self.stdout.write(f"Made the demo project with {project.prompts.count()} prompts.")
        run = base_queue(project=project)
        if run.state != Run.State.DONE:
            self.stdout.write("Preparing the base model, once ...")
            self.stdout.flush()
            self._carry_out(run)
            if run.state != Run.State.DONE:
                raise CommandError(f"The base model could not be prepared. {run.error}")
        round_ = None if without_round else demo_round_open(project)
        if round_ is not None:
            self.stdout.write(f"Opened round {round_.number}; answers to rank are being drawn.")
        self._tell_signins()

    def _carry_out(self, run: Run) -> None:
        """Here and now; after an earlier start that was killed at it, once its lease has run out."""
        give_up = time.monotonic() + 2 * settings.RUN_LEASE_SECONDS
        while True:
            run_execute.apply(args=(str(run.pk),))
            run.refresh_from_db()
            if run.state != Run.State.RUNNING or time.monotonic() > give_up:
                return
            time.sleep(1)

    def _tell_signins(self) -> None:
        path = signins_file()
        if not path.is_file():
            self.stdout.write(
                "The sign-ins of the demo are not kept here; an admin can reset them."
            )
            return
        self.stdout.write(f"\nSign in with one of these (kept in {path}, for you alone):")
        self.stdout.write(path.read_text(encoding="utf-8"))
