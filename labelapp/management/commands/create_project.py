"""Make a project and its first admin, who then invites the others in the browser."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from labelapp.errors import LabelappError
from labelapp.services.projects import project_create
from labelapp.services.runs import base_queue
from labelapp.tasks import runs_nudge


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", help="its part of every address, as garden in /p/garden/")
        parser.add_argument("name", help="what people read")
        parser.add_argument("--admin", required=True, help="sign-in name of its first admin")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with transaction.atomic():
                project, password = project_create(
                    slug=options["slug"], name=options["name"], admin=options["admin"]
                )
                base_queue(project=project)
                runs_nudge()
        except LabelappError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"Made {project.name}; a GPU worker brings in its base model.")
        if password is not None:
            self.stdout.write(
                f"{options['admin']} signs in with {password} (shown this once; change it there)."
            )
