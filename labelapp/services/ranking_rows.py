"""A ranking's rows, and the end of its assignment, in one statement."""

from collections.abc import Sequence

from labelapp.models import LETTERS, Ranking, RankingPlace
from labelapp.prepared import changed, execute, inserted

_WRITE = """
WITH closed AS (UPDATE labelapp_assignment SET {changes} WHERE id = %s),
     written AS (INSERT INTO labelapp_ranking ({columns}) VALUES ({values}) RETURNING id)
INSERT INTO labelapp_rankingplace (ranking_id, sample_id, "group", shown)
SELECT written.id, place.* FROM written,
       unnest(%s::bigint[], %s::smallint[], %s::smallint[]) AS place
RETURNING id, ranking_id, shown
"""


def ranking_write(
    ranking: Ranking, groups: list[list[str]], closed: Sequence[str]
) -> list[RankingPlace]:
    """Write the ranking, its places, and the fields ``closed`` of its assignment.

    ``groups`` are letters as shown, best first; what is in none was not judged.
    """
    assignment = ranking.assignment
    group_of = {letter: i for i, group in enumerate(groups) for letter in group}
    samples = assignment.shown_order
    placed = [group_of.get(LETTERS[shown]) for shown in range(len(samples))]
    changes, written = changed(assignment, closed), inserted(ranking)
    statement = _WRITE.format(
        changes=", ".join(f'"{column}" = %s' for column in changes),
        columns=", ".join(f'"{column}"' for column in written),
        values=", ".join(["%s"] * len(written)),
    )
    values = [*changes.values(), assignment.pk, *written.values()]
    with execute(statement, [*values, samples, placed, list(range(len(samples)))]) as cursor:
        rows = cursor.fetchall()
    ranking.pk = rows[0][1]
    ranking._state.adding = False
    return [
        RankingPlace(
            id=pk, ranking=ranking, sample_id=samples[shown], group=placed[shown], shown=shown
        )
        for pk, _, shown in rows
    ]
