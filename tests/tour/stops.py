"""The pages of the tour, in the order in which a newcomer meets them: how to get there, and what is said of each."""

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

from tests.tour import ways
from tests.tour.demo import Demo
from tests.tour.scenes import WRITER


@dataclass(frozen=True)
class Stop:
    """One page: its name among the addresses, its pictures' file name, its words, and the way to it."""

    page: str
    file: str
    heading: str
    words: str
    alt: str
    go: Callable[[Demo], Page]
    part: str = ""
    """The part of the tour that begins here."""
    late: bool = False
    """Its pictures are taken after those of the others: it changes the round that they show."""


LABELERS, ADMINS, RESEARCHERS = "The labeler", "The admin", "The researcher"
STOPS = (
    Stop(
        "sign-in",
        "sign-in",
        "The door",
        "Everybody signs in here. Light or dark follows the system until one chooses by hand. "
        "After five wrong passwords the page says when to try again.",
        "A card with user name and password.",
        lambda demo: demo.at("", "/sign-in/"),
        LABELERS,
    ),
    Stop(
        "invite",
        "invitation",
        "An invitation",
        "An admin makes a link; it works once, for a few days, and makes the account.",
        "A card that names project and role, with fields for a user name, a name and a password.",
        ways.invitation,
    ),
    Stop(
        "work",
        "first-visit",
        "The first visit",
        "One screen says what the work is. The instructions are one press away, in a drawer.",
        "A welcome with the kinds of task, and one button: Begin.",
        ways.first_visit,
    ),
    Stop(
        "task",
        "writing",
        "Write an answer",
        "The prompt stands beside the sheet. Markdown by keyboard, a preview, the length in the tokens of "
        "the round's model; every word is saved as it is typed, also when the network is down. `?` shows all keys, `P` pauses, and Skip asks why.",
        "Left the prompt, right a sheet with the answer so far, below it words, tokens, Skip and Submit.",
        ways.writing,
    ),
    Stop(
        "task",
        "rating",
        "Rate each answer alone",
        "First each answer by itself, as in the paper: overall quality from 1 to 7, then yes, no or "
        "blank. Point at a field, and its meaning stands there. Digits and letters answer, Enter goes on.",
        "One answer, seven squares with 5 chosen, and a list of yes/no fields.",
        ways.rating,
    ),
    Stop(
        "task",
        "ranking",
        "Rank them",
        "Then all answers, in full. Press a letter and a place, drag a chip, or tap: the strip at the foot is the "
        "answer, ties included, and reads aloud as a sentence. A soft note tells where the order and the ratings disagree.",
        "Four answers in columns, and at the foot the order as chips: B before A and D.",
        ways.ranking,
    ),
    Stop(
        "task",
        "pair",
        "Compare two models",
        "To evaluate, two versions answer prompts that training never saw. A, B, a tie, or both bad; which side each "
        "stands on is drawn and kept, and who wrote which is shown afterwards, if the round says so.",
        "One prompt, two answers side by side, and four choices at the foot.",
        ways.pair,
        late=True,
    ),
    Stop(
        "task",
        "prompt",
        "Write a prompt",
        "Labelers also write prompts: plain ones, few-shot ones with pairs, and ones for a stated use case. "
        "They are answered and ranked in the next round.",
        "A form for a prompt, with the use case it is written for.",
        ways.prompt,
    ),
    Stop(
        "live",
        "live",
        "Ask the model",
        "Where a round allows it, one writes a prompt, sees the answers of the current policy come word by word, "
        "and goes on to rank them. While the machine trains, they come later.",
        "A prompt, and below it four answers of the model.",
        lambda demo: demo.person(WRITER, "live"),
    ),
    Stop(
        "work",
        "work",
        "The desk",
        "Later visits begin here: what is in work, what is waiting, what is done.",
        "The task in work with Go on, then how much is waiting and what was handed in.",
        ways.at(WRITER, "work/"),
    ),
    Stop(
        "history",
        "history",
        "History",
        "All that one has handed in. While the round is open, a label can be corrected.",
        "A list of handed-in tasks, newest first.",
        ways.at(WRITER, "history/"),
    ),
    Stop(
        "history-label",
        "history-label",
        "One label",
        "The prompt, the label and every version of it; the first is kept.",
        "A prompt and the answer that was handed in.",
        ways.history_label,
    ),
    Stop(
        "account",
        "account",
        "The account",
        "Name and password, content that one would rather not read, and the keys of the task pages, each of "
        "which can be changed or switched off.",
        "The account page with the name, the choice of content, and a table of keys.",
        ways.at(WRITER, "/account/"),
    ),
    Stop(
        "password-change",
        "password",
        "A new password",
        "It signs one out everywhere else.",
        "Three fields: the old password, and the new one twice.",
        ways.at(WRITER, "/account/password/"),
    ),
    Stop(
        "password-reset",
        "reset",
        "A forgotten password",
        "An admin makes a link that sets a new one; no mail is needed.",
        "A card with two fields for the new password.",
        ways.reset,
    ),
    Stop(
        "rounds",
        "rounds",
        "Rounds",
        "The admin's start page: every round with how far it is.",
        "A table of rounds with their state, progress and policy.",
        ways.at("admin", "rounds/"),
        ADMINS,
    ),
    Stop(
        "round-new",
        "round-new",
        "Open a round",
        "Which prompts, which tasks and how many, how they are handed out, what the rating page asks. "
        "The counts beside the boxes say how many prompts fit.",
        "A form with prompts on the left, tasks and answers on the right.",
        ways.at("admin", "rounds/new/"),
    ),
    Stop(
        "round",
        "round",
        "A round",
        "Figures and the burn-down move while people work. One button starts the training, and says what is missing.",
        "Progress of each kind of task, the button that starts a training, a chart, and who did what.",
        ways.first("admin", "rounds/", "tr:has(.chip.good) a"),
    ),
    Stop(
        "round",
        "round-pairs",
        "What a comparison says",
        "Win rates with their intervals, and how often the left side won: near a half, or labelers favour a side.",
        "Two win rates, each with its interval on a line from 0 to 1.",
        ways.pair_results,
        late=True,
    ),
    Stop(
        "training",
        "training",
        "A training",
        "SFT, reward model, PPO: where it is, how long it takes, and its curves, as they grow. It can be "
        "stopped, and goes on from its last checkpoint; at the end the admin promotes the new policy, or refuses it.",
        "The stages in a row, and charts of the running one.",
        ways.training,
    ),
    Stop(
        "models",
        "models",
        "Models",
        "Every version, which one is current, and where it comes from. Promote, refuse, roll back.",
        "A list of policies and of reward models with their figures.",
        ways.at("admin", "models/"),
    ),
    Stop(
        "model",
        "model",
        "One model",
        "Its lineage back to the labels, its figures, and some of its answers.",
        "Figures and answers of a model, and beside them where it comes from.",
        ways.first("admin", "models/", ".version-name a"),
    ),
    Stop(
        "prompts",
        "prompts",
        "Prompts",
        "All prompts by kind, use case and split; sensitive ones are marked here and covered for labelers.",
        "A filter and a list of prompts.",
        ways.at("admin", "prompts/"),
    ),
    Stop(
        "upload",
        "upload",
        "Upload",
        "JSON Lines or CSV, prompts or demonstrations.",
        "A form for a file, and beside it examples of both formats.",
        ways.at("admin", "prompts/upload/"),
    ),
    Stop(
        "upload-preview",
        "upload-preview",
        "What an upload would add",
        "Errors and duplicates are shown before anything is written.",
        "Counts of what would be added and what is left out, and the lines with errors.",
        ways.upload,
    ),
    Stop(
        "instructions",
        "instructions",
        "Instructions",
        "What labelers read, version by version; each round names its own.",
        "The instructions as labelers see them, and a form for the next version.",
        ways.at("admin", "instructions/"),
    ),
    Stop(
        "instructions-version",
        "instructions-1",
        "An earlier version",
        "It stays as it stood when labelers read it.",
        "Version 1 of the instructions.",
        ways.at("admin", "instructions/1/"),
    ),
    Stop(
        "concerns",
        "questions",
        "Questions and flags",
        "What labelers ask about a task, and what they flag. The answer reaches them in the task.",
        "An open question with a field for the answer.",
        ways.at("admin", "concerns/"),
    ),
    Stop(
        "people",
        "people",
        "People",
        "Who is in the project, and how much each has done. Invite, change a role, deactivate.",
        "A form for an invitation, and a table of people.",
        ways.at("admin", "people/"),
    ),
    Stop(
        "data",
        "data",
        "Data",
        "Researchers look and export: snapshots named by their content, in formats that other trainers read. Rounds, "
        "trainings and models are theirs to read too.",
        "Counts of labels, and a table of snapshots with their exports.",
        ways.at("researcher", "data/"),
        RESEARCHERS,
    ),
)
