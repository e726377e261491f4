"""Let simulated labelers work on a project's open round, over HTTP, as people do."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labelapp.errors import LabelappError
from labelapp.models import Project
from labelapp.simulation.choice import AGREEMENT
from labelapp.simulation.crew import DEMONSTRATIONS, Done, Plan, crew_run
from labelapp.simulation.utilities import UTILITIES

HERE = f"http://127.0.0.1:{settings.LABELAPP_PORT}"


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--project", default="demo", help="slug of the project")
        add("--url", default=HERE, help="where labelapp answers")
        add("--count", type=int, default=2, help="how many labelers at once")
        add("--preference", choices=sorted(UTILITIES), default="concise")
        add("--demonstrations", type=Path, default=DEMONSTRATIONS, metavar="FILE")
        add("--max-demonstrations", type=int, metavar="N", help="of all labelers together")
        add("--max-rankings", type=int, metavar="N", help="of all labelers together")
        add("--until-empty", action="store_true", help="wait for answers still being drawn")
        add("--seed", type=int, default=0, help="of the noise")
        add("--prefix", default="simulated", help="how their user names begin")
        add("--agreement", type=float, default=AGREEMENT, help="of two labelers on a pair")

    def handle(self, *args: Any, project: str, **options: Any) -> None:
        found = Project.objects.filter(slug=project).first()
        if found is None:
            raise CommandError(f"There is no project {project!r}.")
        plan = Plan(**{name: options[name] for name in Plan.__dataclass_fields__})
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bars = Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        writing = bars.add_task("demonstrations", total=None)
        ranking = bars.add_task("rankings", total=None)

        def tell(done: Done) -> None:
            bars.update(writing, completed=done.demonstrations, total=done.demonstrations_at_most)
            bars.update(ranking, completed=done.rankings, total=done.rankings_at_most)

        try:
            with bars:
                done = crew_run(project=found, plan=plan, tell=tell)
                tell(done)
        except (LabelappError, ValueError) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            raise CommandError("Stopped; what was handed in stays.", returncode=130) from None
        self.stdout.write(done.sentence)
