"""``python -m trainer serve``: answers as they are drawn, swaps, refusals, and its end."""

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.serving import TOKEN, Answer, Client, Running
from tests.trainer.test_sample import ROOT, sample, write_prompts
from tests.trainer.tiny import build_tiny
from trainer.config import ConfigError, ServeConfig, config_from_plain
from trainer.records import ROWS, SampleRow, read_rows
from trainer.serve import run


@pytest.fixture(scope="module")
def second_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny") / "second", "llama", seed=7)


@pytest.fixture
def running(tiny_llama: Path) -> Iterator[Running]:
    """The tiny Llama, loaded as ``one``."""
    server = Running()
    server.policies.load("one", str(tiny_llama))
    yield server
    server.close()


def slowed(running: Running, name: str, seconds: float) -> None:
    """Let every token of a loaded model take a while."""
    model = running.policies._models[name].model
    forward = model.forward

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return forward(*args, **kwargs)

    model.forward = slow


def test_answers_come_as_they_are_drawn_and_whole_at_the_end(running: Running) -> None:
    slowed(running, "one", 0.02)
    answer = running.client.samples(max_new_tokens=24, seed=3)
    kinds = [line["event"] for line in answer.lines]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert answer.lines[0]["model"] == "one"
    assert kinds.count("answer") == 3
    assert kinds.index("text") < kinds.index("answer")
    for index in range(3):
        texts = [e for e in answer.lines if e.get("index") == index]
        streamed = "".join(e["text"] for e in texts if e["event"] == "text")
        (whole,) = [e["text"] for e in texts if e["event"] == "answer"]
        assert whole.startswith(streamed)
        assert streamed


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_same_request_gives_what_stage_sample_draws(
    arch: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(f"tiny_{arch}")
    prompts = write_prompts(tmp_path / "prompts", ["the quiet harbour", "gulls and a dog"])
    assert sample(tmp_path / "out", model, prompts, seed=11) == 0
    drawn = list(read_rows(tmp_path / "out" / "chunks" / "0000" / ROWS, SampleRow))
    running = Running()
    try:
        running.policies.load("m", str(model))
        for place, text in enumerate(["the quiet harbour", "gulls and a dog"]):
            answer = running.client.samples(text, id=f"p{place}", seed=11)
            expected = {r.index: r for r in drawn if r.prompt_id == f"p{place}"}
            assert answer.rows == {i: list(r.token_ids) for i, r in expected.items()}
            whole = {e["index"]: e for e in answer.lines if e["event"] == "answer"}
            assert {i: e["text"] for i, e in whole.items()} == {
                i: r.text for i, r in expected.items()
            }
            assert {i: e["finished"] for i, e in whole.items()} == {
                i: r.finished for i, r in expected.items()
            }
        other = running.client.samples("gulls and a dog", id="p1", seed=12)
        assert other.rows != {i: list(r.token_ids) for i, r in expected.items()}
    finally:
        running.close()


def test_a_swap_under_load_fails_no_request_and_each_ends_on_the_model_it_began_with(
    running: Running, second_llama: Path, tiny_llama: Path
) -> None:
    alone = {"one": running.client.samples().rows}
    running.policies.load("two", str(second_llama))
    alone["two"] = running.client.samples().rows
    assert alone["one"] != alone["two"]
    running.policies.load("one", str(tiny_llama))
    ended, answers = threading.Event(), []

    def keep_asking() -> None:
        while not ended.is_set():
            answers.append(running.client.samples())

    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    for number in range(4):  # new names, so that each is read from its folder and one is let go
        for folder in (second_llama, tiny_llama):
            name = f"{'two' if folder is second_llama else 'one'}-{number}"
            loaded = running.client.ask("/v1/model", {"name": name, "folder": str(folder)})
            assert loaded.status == 200, loaded
            assert len(running.client.health()["models"]) <= 2
    ended.set()
    for asker in askers:
        asker.join()
    seen = set()
    for answer in answers:
        assert answer.status == 200, answer
        assert answer.lines[-1]["event"] == "end", answer
        of = answer.lines[0]["model"].partition("-")[0]
        assert answer.rows == alone[of]
        seen.add(answer.lines[0]["model"])
    assert len(seen) > 2


def test_a_model_that_is_not_current_still_answers_by_name_until_it_is_let_go(
    running: Running, second_llama: Path, tiny_llama: Path
) -> None:
    rows = running.client.samples().rows
    running.policies.load("two", str(second_llama))
    assert running.client.health()["model"] == "two"
    assert running.client.samples(model="one").rows == rows
    assert running.client.samples(model="three").error == "other_model"
    running.policies.load("three", str(tiny_llama))
    assert running.client.health()["models"] == ["two", "three"]
    refused = running.client.samples(model="one")
    assert (refused.status, refused.error) == (409, "other_model")


def test_a_wrong_folder_is_refused_with_a_reason_and_the_old_model_stays(
    running: Running, tiny_llama: Path, tmp_path: Path
) -> None:
    rows = running.client.samples().rows
    cut = tmp_path / "cut"
    shutil.copytree(tiny_llama, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    bare = tmp_path / "bare"
    bare.mkdir()
    for folder, said in ((tmp_path / "none", "is not there"), (bare, "bare"), (cut, "cut")):
        answer = running.client.ask("/v1/model", {"name": "new", "folder": str(folder)})
        assert (answer.status, answer.error) == (422, "bad_model")
        assert said in answer.lines[0]["error"]["message"]
    state = running.client.health()
    assert (state["status"], state["model"], state["models"]) == ("ready", "one", ["one"])
    assert state["failed"].startswith("new: ")
    assert running.client.samples().rows == rows


def test_a_folder_outside_of_the_models_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    running = Running(models=str(tmp_path))
    try:
        inside = f"{tmp_path}/../{tiny_llama.relative_to(tmp_path.parent)}"
        for folder in (str(tiny_llama), inside):
            answer = running.client.ask("/v1/model", {"name": "x", "folder": folder})
            assert (answer.status, answer.error) == (422, "bad_model")
            assert "does not lie under" in answer.lines[0]["error"]["message"]
    finally:
        running.close()


def test_without_the_token_nothing_is_answered_but_that_it_is_there(running: Running) -> None:
    for token in ("", "wrong", TOKEN[:-1], TOKEN + "x", "Bearer"):
        stranger = Client(running.client.port, token)
        assert (stranger.samples().status, stranger.samples().error) == (401, "token")
        assert stranger.ask("/v1/model", {"name": "x", "folder": "/"}).status == 401
        assert stranger.health() == {"status": "ready"}
    assert running.client.health()["models"] == ["one"]


def test_more_than_may_wait_are_told_to_come_later(running: Running) -> None:
    model = running.policies._models["one"].model
    forward, gate = model.forward, threading.Event()
    model.forward = lambda *args, **kwargs: gate.wait(30) and forward(*args, **kwargs)
    places = running.policies._places
    answers: list[Answer] = []
    askers = [
        threading.Thread(target=lambda: answers.append(running.client.samples())) for _ in range(4)
    ]
    for asker in askers:  # one is answered, three wait
        asker.start()
    while places._value:
        time.sleep(0.01)
    late = running.client.samples()
    assert (late.status, late.error, late.retry_after) == (503, "full", "5")
    gate.set()
    for asker in askers:
        asker.join()
    assert [answer.status for answer in answers] == [200] * 4
    assert running.client.samples().status == 200


def test_while_somebody_trains_it_says_later(tiny_llama: Path, tmp_path: Path) -> None:
    lock = tmp_path / "device.lock"
    running = Running(busy_file=str(lock))
    try:
        running.policies.load("one", str(tiny_llama))
        assert running.client.samples().status == 200
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_SH)
            answer = running.client.samples()
            assert (answer.status, answer.error, answer.retry_after) == (503, "training", "30")
            assert running.client.health()["busy"] is True
        assert running.client.samples().status == 200
    finally:
        running.close()


def test_a_listener_who_leaves_frees_the_place(running: Running) -> None:
    slowed(running, "one", 0.05)
    connection = http.client.HTTPConnection("127.0.0.1", running.client.port, timeout=60)
    prompt = [{"role": "user", "content": "hello"}]
    body = {"id": "x", "messages": prompt, "k": 9, "max_new_tokens": 200, "temperature": 100}
    connection.request(
        "POST", "/v1/samples", json.dumps(body), {"Authorization": f"Bearer {TOKEN}"}
    )
    response = connection.getresponse()
    response.readline()
    response.close()
    connection.close()
    started = time.monotonic()
    assert running.client.samples(k=1, max_new_tokens=1).status == 200
    assert time.monotonic() - started < 5  # the whole would take ten seconds


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k": 0}, "request.k is 0; it must be from 1 to 16."),
        ({"k": True}, "request.k is True; it must be of type int."),
        ({"temperature": -1}, "request.temperature is -1.0; it must be from 0 to 100."),
        ({"temperature": float("nan")}, "request.temperature is nan"),
        ({"max_new_tokens": 10**9}, "request.max_new_tokens is 1000000000"),
        ({"top_p": 0.5}, "top_p"),
        ({"ids": [1]}, "either messages or ids"),
        ({"messages": None}, "either messages or ids"),
        ({"messages": [{"role": "root", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character is no text"),
        ({"id": 3}, "request.id is 3"),
    ],
)
def test_a_malformed_request_is_refused_by_name(
    running: Running, fields: dict[str, object], said: str
) -> None:
    answer = running.client.samples(**fields)
    assert (answer.status, answer.error) == (400, "bad_request")
    assert said in answer.lines[0]["error"]["message"]


def test_what_cannot_be_answered_is_refused(running: Running) -> None:
    long = running.client.samples("harbour " * 400)
    assert (long.status, long.error) == (422, "too_long")
    assert running.client.samples(max_new_tokens=4000).error == "too_long"
    assert running.client.samples(messages=None, ids=[10**6]).error == "refused"
    assert running.client.samples(messages=None, ids=[]).error == "refused"
    assert running.client.samples(messages=[]).error == "refused"
    assert running.client.ask("/v1/samples", b"{").error == "bad_request"
    assert running.client.ask("/v1/samples", b"[]").error == "bad_request"
    assert running.client.ask("/v1/samples", b"[" * 100_000).error == "bad_request"
    assert running.client.ask("/v1/samples", b" " * (2**20 + 1)).error == "bad_request"
    assert running.client.ask("/v1/other", {}).status == 404
    assert running.client.samples(messages=None, ids=[5, 6, 7]).status == 200


def test_before_there_is_a_model_it_says_later() -> None:
    running = Running()
    try:
        answer = running.client.samples()
        assert (answer.status, answer.error, answer.retry_after) == (503, "no_model", "5")
        assert running.client.health()["status"] == "empty"
    finally:
        running.close()


def test_settings_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        config_from_plain("serve", {"keep": 1})
    with pytest.raises(ConfigError, match="unknown"):
        config_from_plain("serve", {"prot": 1})
    monkeypatch.delenv("SERVE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="SERVE_TOKEN"):
        run(ServeConfig())


@pytest.mark.slow
def test_the_process_answers_and_ends_within_seconds_of_sigterm(
    tiny_llama: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"model": str(tiny_llama), "name": "one", "port": port, "precision": "fp32"}
    config.write_text(json.dumps(settings))
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "serve", "--config", str(config)],
        cwd=ROOT,
        env=os.environ | {"SERVE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
    )
    try:
        client = Client(port)
        deadline = time.monotonic() + 60
        while not _ready(client):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        assert client.samples().status == 200
        answers: list[Answer] = []
        busy = threading.Thread(
            target=lambda: answers.append(client.samples(k=16, max_new_tokens=200, temperature=100))
        )
        busy.start()
        time.sleep(0.3)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - asked < 5
        busy.join(10)
        assert answers[0].lines[-1]["event"] in ("end", "error")
    finally:
        process.kill()
        process.wait()


def _ready(client: Client) -> bool:
    try:
        return bool(client.health()["status"] == "ready")
    except OSError:
        return False
