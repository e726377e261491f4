"""Labeling: loops of next-then-submit per second, over token and JSON, and through the pages.

``python -m bench.labeling_load`` starts a site of its own, copies 1,000, 100,000 and 1,000,000
prompts with K answers each into it, and lets labelers without think time work on them in a closed
loop; then labelers who think. The driver runs on the same processors.
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

    def __init__(self, site: Site, headers: dict[str, str]) -> None:
        self.address = site.url.removeprefix("http://")
        self.headers = headers
        self.connection = http.client.HTTPConnection(self.address, timeout=60)
        self.used = 0.0

    def ask(self, method: str, path: str, body: str, kind: str) -> tuple[int, str, bytes]:
        """Status, Location and body; an idle connection, which the server closes, is made anew."""
        if time.perf_counter() - self.used > 3:
            self.connection.close()
        headers = self.headers | ({"Content-Type": kind} if body else {})
        self.connection.request(method, path, body or None, headers)
        answer = self.connection.getresponse()
        said = answer.read()
        self.used = time.perf_counter()
        return answer.status, answer.headers.get("Location", ""), said

    def json(self, path: str, body: object) -> tuple[int, Any]:
        status, _, said = self.ask("POST", path, json.dumps(body), "application/json")
        return status, json.loads(said)


def label() -> dict[str, Any]:
    """What every submit has beside the ranking."""
    return {"client_id": str(uuid4()), "active_ms": 900}


def api_loop(site: Site, key: dict[str, str], k: int) -> Callable[[Tally], bool]:
    """Next, then submit, by token; False where nothing was left."""
    caller = Caller(site, {"Authorization": f"Bearer {key['token']}"})
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


def page_loop(site: Site, key: dict[str, str], k: int) -> Callable[[Tally], bool]:
    """The button, the page it leads to, and the submit that the page's script sends."""
    csrf = "c" * 32
    form = {"Cookie": f"sessionid={key['session']}; csrftoken={csrf}", "X-CSRFToken": csrf}
    caller = Caller(site, form)
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


FORM = "application/x-www-form-urlencoded"
LOOPS = {"api": api_loop, "pages": page_loop}


def measured(
    found: Site, keys: list[dict[str, str]], args: argparse.Namespace, loop: str, think: float = 0
) -> dict[str, Any]:
    """All labelers of ``keys`` in a closed loop, each in a thread; figures after the warm-up."""
    start = time.perf_counter()
    tally = Tally(start + args.warm_up, start + args.warm_up + args.seconds)

    def work(number: int) -> None:
        once = LOOPS[loop](found, keys[number], args.k)
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
    ours: dict[str, Any] = {}
    with site(args.port, args.web_workers, args.web_threads) as found:
        for prompts in args.prompts:
            keys = cast(found, max(args.labelers, args.thinkers))
            load(found.database_url, prompts, args.k, args.overlap)
            with web_server(found):
                for loop in ("api", "pages")[: 1 if args.no_pages else 2]:
                    ours[f"{loop}, {prompts:,} prompts"] = measured(
                        found, keys[: args.labelers], args, loop
                    )
                    _say(ours)
                if args.thinkers and prompts == args.prompts[-1]:
                    name = f"api, {prompts:,} prompts, {args.thinkers} who think {args.think:g} s"
                    ours[name] = measured(found, keys[: args.thinkers], args, "api", args.think)
                    _say(ours)
    found_json = {
        "benchmark": "labeling",
        "ours": ours,
        "peer": None,
        "ratio": None,
        "settings": _settings(args),
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found_json, indent=2) + "\n", encoding="utf-8")


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
    add("--web-workers", type=int, default=2)
    add("--web-threads", type=int, default=4)
    add("--port", type=int, default=18_430)
    add("--json", type=Path, help="write the figures there too")
    return options.parse_args(argv)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    named = {name: value for name, value in vars(args).items() if name not in ("json", "port")}
    return named | {"load average at the end": os.getloadavg()[0], "machine": machine()}


def _say(ours: dict[str, Any]) -> None:
    name, figures = list(ours.items())[-1]
    print(
        f"{name}: {figures['loops_per_second']:.1f} loops/s, "
        f"next {figures['next_p50_ms']} ms (p99 {figures['next_p99_ms']}), "
        f"submit {figures['submit_p50_ms']} ms (p99 {figures['submit_p99_ms']}), "
        f"failures {figures['failures']}, ran dry {figures['ran_dry']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
