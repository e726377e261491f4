"""Labeling: loops of next-then-submit per second, over token and JSON, and through the pages.

``python -m bench.labeling_load`` starts a site of its own, copies 1,000, 100,000 and 1,000,000
prompts with K answers each into it, and lets labelers without think time work on them in a closed
loop; then labelers who think. The driver runs on the same processors. ``--peer`` measures
Label Studio in the same run, next task and submit of an annotation over token and JSON.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.labeling_peer import cast as peer_cast
from bench.labeling_peer import label_studio, peer_server
from bench.labeling_site import SLUG, Site, load, site, web_server
from bench.measure import ROOT
from bench.report import machine

API = f"/api/p/{SLUG}/"
PAGES = f"/p/{SLUG}/work/"


@dataclass
class Tally:
    """What the labelers of one measurement saw; only what began after the warm-up counts."""

    since: float
    until: float
    times: dict[str, list[float]] = field(default_factory=lambda: {"next": [], "submit": []})
    failures: Counter[int] = field(default_factory=Counter)
    dry: int = 0

    def note(self, what: str, began: float, status: int) -> None:
        ended = time.perf_counter()
        if began >= self.since and ended <= self.until:
            self.times[what].append(ended - began)
            if status >= 400:
                self.failures[status] += 1

    def figures(self) -> dict[str, Any]:
        """Loops per second and the percentiles of both requests, in ms."""
        seconds = self.until - self.since
        found: dict[str, Any] = {"loops_per_second": len(self.times["submit"]) / seconds}
        for what, times in self.times.items():
            ranked = sorted(times)
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                at = ranked[int(share * (len(ranked) - 1))] if ranked else 0.0
                found[f"{what}_{name}_ms"] = round(1000 * at, 2)
        return found | {"failures": dict(self.failures), "ran_dry": self.dry}


class Caller:
    """One labeler's connection."""

    def __init__(self, url: str, headers: dict[str, str], *, keep: bool = True) -> None:
        self.address = url.removeprefix("http://")
        self.headers = headers
        self.keep = keep  # else the server closes it after each answer, and does not say so
        self.connection = http.client.HTTPConnection(self.address, timeout=60)
        self.used = 0.0

    def ask(self, method: str, path: str, body: str, kind: str) -> tuple[int, str, bytes]:
        """Status, Location and body; an idle connection, which the server closes, is made anew."""
        if not self.keep or time.perf_counter() - self.used > 3:
            self.connection.close()
        headers = self.headers | ({"Content-Type": kind} if body else {})
        self.connection.request(method, path, body or None, headers)
        answer = self.connection.getresponse()
        said = answer.read()
        self.used = time.perf_counter()
        return answer.status, answer.headers.get("Location", ""), said

    def json(self, path: str, body: object, method: str = "POST") -> tuple[int, Any]:
        sent = "" if body is None else json.dumps(body)
        status, _, said = self.ask(method, path, sent, "application/json")
        return status, json.loads(said) if status < 500 else None


def label() -> dict[str, Any]:
    """What every submit has beside the ranking."""
    return {"client_id": str(uuid4()), "active_ms": 900}


def api_loop(url: str, key: dict[str, str], k: int) -> Callable[[Tally], bool]:
    """Next, then submit, by token; False where nothing was left."""
    caller = Caller(url, {"Authorization": f"Bearer {key['token']}"})
    groups = [[letter] for letter in "ABCDEFGHI"[:k]]

    def once(tally: Tally) -> bool:
        began = time.perf_counter()
        status, said = caller.json(f"{API}next/", {})
        tally.note("next", began, status)
        if status >= 400 or said["assignment"] is None:
            return False
        began = time.perf_counter()
        path = f"{API}assignments/{said['assignment']['id']}/submit/"
        status, _ = caller.json(path, label() | {"groups": groups})
        tally.note("submit", began, status)
        return True

    return once


def page_loop(url: str, key: dict[str, str], k: int) -> Callable[[Tally], bool]:
    """The button, the page it leads to, and the submit that the page's script sends."""
    csrf = "c" * 32
    form = {"Cookie": f"sessionid={key['session']}; csrftoken={csrf}", "X-CSRFToken": csrf}
    caller = Caller(url, form)
    groups = [[letter] for letter in "ABCDEFGHI"[:k]]

    def once(tally: Tally) -> bool:
        began = time.perf_counter()
        status, to, _ = caller.ask("POST", f"{PAGES}next/", "after=", FORM)
        found = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", to)
        if status == 302 and found:
            status, _, _ = caller.ask("GET", to, "", FORM)
        tally.note("next", began, status)
        if not found:
            return False
        began = time.perf_counter()
        path = f"{API}assignments/{found[0]}/submit/"
        status, _ = caller.json(path, label() | {"groups": groups})
        tally.note("submit", began, status)
        return True

    return once


def peer_loop(url: str, key: dict[str, str], k: int) -> Callable[[Tally], bool]:
    """Label Studio's next task, then an annotation that ranks it, by token."""
    caller = Caller(url, {"Authorization": f"Token {key['token']}"}, keep=False)
    ranked = {"rank": [str(j) for j in range(k)]}
    result = {"from_name": "rank", "to_name": "answers", "type": "ranker"}
    annotation = {"result": [result | {"value": {"ranker": ranked}}], "lead_time": 0.9}

    def once(tally: Tally) -> bool:
        began = time.perf_counter()
        status, task = caller.json(f"/api/projects/{key['project']}/next", None, "GET")
        tally.note("next", began, status)
        if status >= 400:
            return False
        began = time.perf_counter()
        path = f"/api/tasks/{task['id']}/annotations/?project={key['project']}"
        status, _ = caller.json(path, annotation)
        tally.note("submit", began, status)
        return True

    return once


FORM = "application/x-www-form-urlencoded"
LOOPS = {"api": api_loop, "pages": page_loop, "peer": peer_loop}


def measured(
    url: str, keys: list[dict[str, str]], args: argparse.Namespace, loop: str, think: float = 0
) -> dict[str, Any]:
    """All labelers of ``keys`` in a closed loop, each in a thread; figures after the warm-up."""
    start = time.perf_counter()
    tally = Tally(start + args.warm_up, start + args.warm_up + args.seconds)

    def work(number: int) -> None:
        once = LOOPS[loop](url, keys[number], args.k)
        time.sleep(think * number / len(keys))  # those who think do not begin in one moment
        while time.perf_counter() < tally.until:
            if not once(tally):
                tally.dry += 1
                return
            time.sleep(think)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally.figures() | {"labelers": len(keys), "think_seconds": think}


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    args = _arguments(argv)
    ours = _ours(args)
    peer, served_by = _peer(args) if args.peer else (None, None)
    found_json = {
        "benchmark": "labeling",
        "ours": ours,
        "peer": peer,
        "ratio": peer and _ratio(ours, peer),
        "settings": _settings(args) | {"peer is served by": served_by},
    }
    print(f"ratio: {found_json['ratio']}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found_json, indent=2) + "\n", encoding="utf-8")


def _ours(args: argparse.Namespace) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    with site(args.port, args.web_workers, args.web_threads) as found:
        for prompts in args.prompts:
            keys = cast(found, max(args.labelers, args.thinkers))
            load(found.database_url, prompts, args.k, args.overlap)
            with web_server(found):
                for loop in ("api", "pages")[: 1 if args.no_pages else 2]:
                    ours[f"{loop}, {prompts:,} prompts"] = measured(
                        found.url, keys[: args.labelers], args, loop
                    )
                    _say("ours", ours)
                if args.thinkers and prompts == args.prompts[-1]:
                    name = f"api, {prompts:,} prompts, {args.thinkers} who think {args.think:g} s"
                    ours[name] = measured(found.url, keys[: args.thinkers], args, "api", args.think)
                    _say("ours", ours)
    return ours


def _peer(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Label Studio at its sizes, and what serves it."""
    peer: dict[str, Any] = {}
    with label_studio(args.work, args.port + 1) as found:
        for prompts in args.peer_prompts:
            keys = peer_cast(found, prompts, args.k, args.overlap, args.labelers)
            with peer_server(found, args.web_workers, args.web_threads):
                peer[f"api, {prompts:,} prompts"] = measured(found.url, keys, args, "peer")
                _say("peer", peer)
        return peer, found.server


def _ratio(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """How many times the peer's loops per second, where both were measured."""
    return {
        name: round(ours[name]["loops_per_second"] / figures["loops_per_second"], 2)
        for name, figures in peer.items()
        if name in ours and figures["loops_per_second"]
    }


def cast(found: Site, count: int) -> list[dict[str, str]]:
    """Tokens and sessions of the labelers, made by a process that knows Django."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.labeling_cast", str(count)],
        cwd=ROOT,
        env=found.environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    keys: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return keys


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = options.add_argument
    add("--prompts", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    add("--labelers", type=int, default=16, help="without think time")
    add("--thinkers", type=int, default=200, help="at the last size; 0 leaves them out")
    add("--think", type=float, default=10.0, help="seconds that each thinker thinks")
    add("--warm-up", type=float, default=10.0, help="seconds")
    add("--seconds", type=float, default=60.0, help="that are measured")
    add("--overlap", type=int, default=16, help="labelers per task")
    add("--k", type=int, default=4, help="answers per task")
    add("--no-pages", action="store_true", help="the API alone")
    add("--peer", action="store_true", help="measure Label Studio 1.23.2 beside it")
    add("--peer-prompts", type=int, nargs="+", default=[10_000, 100_000])
    add("--work", type=Path, default=ROOT / "var" / "bench", help="the peer's environment")
    add("--web-workers", type=int, default=2)
    add("--web-threads", type=int, default=4)
    add("--port", type=int, default=18_430)
    add("--json", type=Path, help="write the figures there too")
    return options.parse_args(argv)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    named = {
        name: value for name, value in vars(args).items() if name not in ("json", "port", "work")
    }
    return named | {"load average at the end": os.getloadavg()[0], "machine": machine()}


def _say(whose: str, all_figures: dict[str, Any]) -> None:
    name, figures = list(all_figures.items())[-1]
    print(
        f"{whose}, {name}: {figures['loops_per_second']:.1f} loops/s, "
        f"next {figures['next_p50_ms']} ms (p99 {figures['next_p99_ms']}), "
        f"submit {figures['submit_p50_ms']} ms (p99 {figures['submit_p99_ms']}), "
        f"failures {figures['failures']}, ran dry {figures['ran_dry']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
