"""The project, the tasks and the labelers of the labeling load in Label Studio, made through it.

Run by the interpreter of its environment, in its folder: ``label_studio_cast.py TASKS K OVERLAP
LABELERS`` empties the project, makes the tasks in bulk and prints one JSON object: the project's id
and a token for each labeler.
"""

import json
import os
import sys


def main() -> None:
    """Make what is asked for, print the keys."""
    sys.path.insert(0, os.getcwd())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings.label_studio")
    import django

    django.setup()
    from organizations.models import Organization  # type: ignore[import-not-found]
    from projects.models import Project  # type: ignore[import-not-found]
    from rest_framework.authtoken.models import Token
    from tasks.models import Task  # type: ignore[import-not-found]
    from users.models import User  # type: ignore[import-not-found]

    count, k, overlap, labelers = map(int, sys.argv[1:5])
    owner, _ = User.objects.get_or_create(email="owner@example.org", username="owner")
    organization = Organization.objects.first()
    if organization is None:
        organization = Organization.create_organization(created_by=owner, title="Load")
    owner.active_organization = organization
    owner.save()
    organization.jwt.legacy_api_tokens_enabled = True
    organization.jwt.save()
    tokens = []
    for number in range(labelers):
        name = f"load-{number}"
        person, _ = User.objects.get_or_create(email=f"{name}@example.org", username=name)
        organization.add_user(person)
        person.active_organization = organization
        person.save()
        tokens.append(Token.objects.get_or_create(user=person)[0].key)
    Project.objects.all().delete()
    project = Project.objects.create(
        title="Load",
        label_config=CONFIG,
        organization=organization,
        created_by=owner,
        maximum_annotations=overlap,
    )
    words = ["river", "stone", "lamp", "garden", "copper", "letter", "winter", "bread"]
    for start in range(0, count, 2000):
        numbers = range(start, min(start + 2000, count))
        Task.objects.bulk_create(
            Task(
                project=project,
                data=_data(number, k, words),
                inner_id=number + 1,
                overlap=overlap,
                is_labeled=False,
            )
            for number in numbers
        )
    print(json.dumps({"project": project.pk, "tokens": tokens}))


CONFIG = """
<View>
  <Text name="prompt" value="$prompt"/>
  <List name="answers" value="$items" title="Answers"/>
  <Ranker name="rank" toName="answers"/>
</View>
"""


def _data(number: int, k: int, words: list[str]) -> dict[str, object]:
    def text(seed: int, length: int) -> str:
        return " ".join(words[(seed * (n + 3) + n) % len(words)] for n in range(length))

    items = [{"id": str(j), "title": "", "body": text(number + 7 * j, 30)} for j in range(k)]
    return {"prompt": f"{text(number, 40)} ({number})", "items": items}


if __name__ == "__main__":
    main()
