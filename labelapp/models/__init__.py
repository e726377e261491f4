"""All models, by noun. Every row hangs on a project."""

from labelapp.models.assignments import LETTERS, Assignment, Standing, Task
from labelapp.models.concerns import Flag, Note, Thread
from labelapp.models.labels import Demonstration, Ranking, RankingPlace, Rating
from labelapp.models.live import LiveDraft, LivePrompt
from labelapp.models.people import ApiToken, Invite, Membership, Role, User
from labelapp.models.projects import InstructionVersion, Project
from labelapp.models.prompts import Prompt, PromptKind, Split, Upload, UseCase
from labelapp.models.rating_fields import FLAGS, HIGHEST, LOWEST, RATING_FIELDS, RatingField
from labelapp.models.registry import ModelVersion, Run, RunInput, Snapshot, WorkerSign
from labelapp.models.rounds import PROMPTS_WANTED, Round, Training
from labelapp.models.samples import Sample, SampleScore
from labelapp.models.sensitive import Sensitive
from labelapp.models.votes import Vote

__all__ = [
    "PROMPTS_WANTED",
    "FLAGS",
    "HIGHEST",
    "LETTERS",
    "LOWEST",
    "RATING_FIELDS",
    "ApiToken",
    "Assignment",
    "Demonstration",
    "Flag",
    "InstructionVersion",
    "Invite",
    "LiveDraft",
    "LivePrompt",
    "Membership",
    "ModelVersion",
    "Note",
    "Project",
    "Prompt",
    "PromptKind",
    "Ranking",
    "RankingPlace",
    "Rating",
    "RatingField",
    "Role",
    "Round",
    "Run",
    "RunInput",
    "Sample",
    "SampleScore",
    "Sensitive",
    "Snapshot",
    "Split",
    "Standing",
    "Task",
    "Thread",
    "Training",
    "Upload",
    "UseCase",
    "User",
    "Vote",
    "WorkerSign",
]
