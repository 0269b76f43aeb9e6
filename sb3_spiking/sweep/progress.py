"""A table of a sweep while it runs: jobs, steps, steps per second, expected end."""

import datetime
import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from sb3_spiking.sweep.lists import Job
from sb3_spiking.sweep.runner import Sweep

_ROWS = 20  # running jobs in the table
_LOOK = 2.0  # seconds between two looks into the logs


class Progress:
    """
    A table in a terminal; elsewhere a line for each job that ends.

    :param wanted: jobs of the sweep
    :param sweep: their list and logs
    """

    def __init__(self, wanted: list[Job], sweep: Sweep) -> None:
        self._wanted = wanted
        self._asked = {job: sweep.jobs.training_steps(job) for job in wanted}
        self._first: dict[Job, tuple[float, int]] = {}  # time and steps where a job was first seen running
        self._steps: dict[Job, int] = {}
        self._queued: set[Job] = set()  # jobs that wait for a place on their engine
        self._begun = self._looked = time.monotonic()
        self._trained = 0  # steps of this sweep's jobs that have ended
        self._last: dict[Job, str] | None = None
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *args: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, sweep: Sweep, conditions: Mapping[Job, str]) -> None:
        now = time.monotonic()
        before = self._last or {}
        changed = self._last is None or dict(conditions) != before
        if not changed and now - self._looked < _LOOK:
            return
        self._looked, self._last = now, dict(conditions)
        started = [job for job, condition in conditions.items() if condition == "running"]
        running = [job for job in started if job in self._first or sweep.state.is_locked(job.name)]
        self._queued = set(started) - set(running)
        for job in running:
            self._steps[job] = sweep.steps(job)
            self._first.setdefault(job, (now, self._steps[job]))
        for job in [job for job in self._first if job not in started]:
            _, first = self._first.pop(job)
            self._trained += max(0, (self._asked[job] if job not in conditions else self._steps[job]) - first)
        if self._console.is_terminal:
            self._live.update(self._table(conditions, running, now), refresh=True)
            return
        for job in before:
            if job not in conditions or (conditions[job] == "failed" and before[job] != "failed"):
                print(f"{job.name}: {conditions.get(job, 'done')}; {self._total(conditions, running, now)}", flush=True)

    def _table(self, conditions: Mapping[Job, str], running: list[Job], now: float) -> Group:
        table = Table(box=None)
        table.add_column("job", no_wrap=True)
        for title in ("steps", "of", "steps/s", "expected end"):
            table.add_column(title, justify="right")
        for job in running[:_ROWS]:
            since, first = self._first[job]
            steps, asked = self._steps[job], self._asked[job]
            speed = (steps - first) / (now - since) if now > since else 0.0
            end = "is scored" if steps >= asked > 0 else _end((asked - steps) / speed) if speed > 0 else ""
            table.add_row(job.name, f"{steps:,}", f"{asked:,}", f"{speed:,.0f}" if speed > 0 and steps < asked else "", end)
        if len(running) > _ROWS:
            table.add_row(f"and {len(running) - _ROWS} more")
        return Group(table, self._total(conditions, running, now))

    def _total(self, conditions: Mapping[Job, str], running: list[Job], now: float) -> str:
        """All jobs in one line."""
        counts = Counter("queued" if job in self._queued else name for job, name in conditions.items())
        done = len(self._wanted) - len(conditions)
        parts = [f"{done} of {len(self._wanted)} jobs done"]
        parts += [f"{counts[name]} {name}" for name in ("running", "queued", "waiting", "failed") if counts[name]]
        trained = self._trained + sum(max(0, self._steps[job] - self._first[job][1]) for job in running)
        left = sum(self._asked[job] - self._steps.get(job, 0) for job in conditions if conditions[job] != "failed")
        if trained > 0 and now > self._begun:
            speed = trained / (now - self._begun)
            parts.append(f"{speed:,.0f} steps/s, expected end {_end(left / speed)}")
        return ", ".join(parts)


def _end(seconds: float) -> str:
    """When so many seconds have passed, by the clock."""
    end = datetime.datetime.now() + datetime.timedelta(seconds=min(max(seconds, 0.0), 1e9))
    return f"{end:%H:%M}" if end.date() == datetime.date.today() else f"{end:%Y-%m-%d %H:%M}"
