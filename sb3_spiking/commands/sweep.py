"""
Train every agent of a list and compare them: environments x methods x seeds, on this machine, Slurm or Ray.

    sb3-spiking sweep benchmarks/minatar.yml                      # this machine, as many jobs as cores
    sb3-spiking sweep benchmarks/minatar.yml --on slurm --partition gpu --time 240
    sb3-spiking sweep benchmarks/minatar.yml --on ray --address auto
    sb3-spiking sweep benchmarks/minatar.yml --status             # what is done, runs, failed; scores so far

A job that is done is not run again, one that was cut off goes on from its checkpoint: stop the command and repeat it as you
like, on another machine of a shared folder too. docs/sweeps.md says what a list is and what comes out.
"""

import argparse
import math
import shlex
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import torch as th

from sb3_spiking.commands import arguments
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.table import markdown
from sb3_spiking.sweep import plots, tables
from sb3_spiking.sweep.engines import Engine, Resources
from sb3_spiking.sweep.engines.local import Local
from sb3_spiking.sweep.engines.ray import Ray
from sb3_spiking.sweep.engines.slurm import Slurm
from sb3_spiking.sweep.estimate import estimate
from sb3_spiking.sweep.lists import Job, TrainingList
from sb3_spiking.sweep.logs import last_line
from sb3_spiking.sweep.machine import describe
from sb3_spiking.sweep.progress import Progress
from sb3_spiking.sweep.runner import Sweep
from sb3_spiking.sweep.scoring import known_random_scores, random_scores

_SHOWN = 20  # names in a line of --status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("list", type=Path, help="YAML file of jobs")
    parser.add_argument("--results", type=Path, help="folder of finished jobs (default: results/LIST beside the list)")
    parser.add_argument(
        "--logs", type=Path, default=Path("logs/training"), help="what RL Zoo writes goes to LIST in this folder"
    )
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="the jobs whose names contain one of these")
    parser.add_argument("--status", action="store_true", help="say what is done, runs, failed; scores so far")
    parser.add_argument("--dry-run", action="store_true", help="check the list and estimate what it costs")
    parser.add_argument("--on", choices=["local", "slurm", "ray"], default="local", help="where the jobs run")
    parser.add_argument("--jobs", type=arguments.at_least(1), help="jobs at a time (default: as many as there are cores for)")
    parser.add_argument("--threads", type=arguments.at_least(1), default=1, help="cores of a job")
    parser.add_argument("--memory", type=arguments.positive, metavar="GB", help="memory of a job")
    parser.add_argument(
        "--gpus", type=arguments.positive, default=0, help="GPUs of a job, 0.5 for half of one (default: none)"
    )
    parser.add_argument("--partition", help="Slurm's")
    parser.add_argument(
        "--time",
        type=arguments.at_least(1),
        metavar="MINUTES",
        help="Slurm's limit, after which a job queues again (default: 240)",
    )
    parser.add_argument(
        "--slurm", type=_option, nargs="+", metavar="NAME=VALUE", help="more of sbatch's options: account=abc qos=long"
    )
    parser.add_argument("--address", help="of a Ray cluster, HOST:PORT, or auto for the one this machine belongs to")


def _option(text: str) -> tuple[str, str | bool]:
    name, equals, value = text.partition("=")
    if not name or (equals and not value):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=VALUE, such as account=abc")
    return name, value if equals else True


def _engine(args: argparse.Namespace, logs: Path) -> Engine:
    for option, where in (("partition", "slurm"), ("time", "slurm"), ("slurm", "slurm"), ("address", "ray")):
        if getattr(args, option) is not None and args.on != where:
            raise AgentError(f"--{option}: goes with --on {where}")
    resources = Resources(args.threads, args.memory, args.gpus)
    engine: Engine
    if args.on == "slurm":
        engine = Slurm(logs / "slurm", resources, args.partition, args.time or 240, dict(args.slurm or []))
    elif args.on == "ray":
        engine = Ray(args.address or "auto", resources)
    else:
        engine = Local(resources)
    if args.jobs is not None:
        engine.slots = args.jobs
    return engine


def _report(sweep: Sweep) -> None:
    """Gather the results, write tables and plots, print."""
    jobs = sweep.jobs
    with sweep.state.lock("sweep"):  # one sweep at a time
        jobs.records.gather()
        random = random_scores(jobs)
        scores = jobs.scores()
        tables.all_runs(jobs, scores, random).to_csv(jobs.results / "runs.csv", index=False)
        plots.plot_curves(jobs, jobs.results / "learning_curves.png")
        plots.plot_profile(jobs, scores, random, jobs.results / "profile.png")
    print(f"\n{describe()}")
    _print_tables(jobs, scores, random, "mean")
    if "last_mean" in scores and scores["last_mean"].notna().any():
        print("\nThe last agents of these trainings")
        _print_tables(jobs, scores, random, "last_mean")
    if not jobs.records.table("spikes").empty:
        print(f"\nSilent neurons of the last layer, early and late in the training\n\n{tables.silence(jobs)}")
    print(f"\n{jobs.results}/: {', '.join(sorted(path.name for path in jobs.results.glob('[!.]*.*')))}")


def _print_tables(jobs: TrainingList, scores: pd.DataFrame, random: dict[str, float], column: str) -> None:
    print(f"\n{tables.table(jobs, scores, random, column)}")
    games = tables.by_game(jobs, scores, random, column)
    if games:
        print(f"\nPerformance ratio by game\n\n{games}")
    print(f"\n{tables.over_seeds(jobs, scores, random, column)}")


def _status(sweep: Sweep, wanted: list[Job]) -> None:
    """Print what each job is about, and what has been found so far."""
    jobs, done = sweep.jobs, sweep.jobs.records.names()
    conditions = {job: "done" if job.name in done else sweep.condition(job) for job in wanted}
    counts = Counter(conditions.values())
    print(f"{jobs.file}: {', '.join(f'{count} {name}' for name, count in counts.items())}, of {len(wanted)} jobs")
    for name in ("running", "stopped", "failed"):
        these = [job for job in wanted if conditions[job] == name]
        for job in these[:_SHOWN]:
            what = (
                last_line(sweep.log(job))
                if name == "failed"
                else f"{sweep.steps(job):,} of {jobs.training_steps(job):,} steps"
            )
            print(f"  {name}: {job.name}, {what}")
        if len(these) > _SHOWN:
            print(f"  {name}: {len(these) - _SHOWN} more")
    if counts["done"]:
        print(f"\n{tables.table(jobs, jobs.scores(), known_random_scores(jobs.results))}")


def _say_what_is_outdated(sweep: Sweep, wanted: list[Job]) -> None:
    outdated = [job.name for job in sweep.outdated(wanted)]
    if outdated:
        which = ", ".join(outdated[:_SHOWN]) + (f" and {len(outdated) - _SHOWN} more" if len(outdated) > _SHOWN else "")
        print(
            f"{which}: {sweep.jobs.file}, or the agent that is converted, has changed since; the results stay. To run again, "
            f"remove the rows from {sweep.jobs.results / 'scores.csv'}, and random.csv if environments are others now",
            file=sys.stderr,
        )


def _dry_run(sweep: Sweep, wanted: list[Job], slots: int | None) -> None:
    """Print what the jobs that are not done would cost."""
    done = sweep.jobs.records.names()
    left = [job for job in wanted if job.name not in done]
    print(f"{sweep.jobs.file}: {len(wanted)} jobs, {len(wanted) - len(left)} done; results to {sweep.jobs.results}")
    if not left:
        return
    table = estimate(sweep.jobs, left)
    hours = table["hours"].sum()
    shown = table.assign(**{name: table[name].map(_number) for name in ("steps", "steps/s", "hours")}).fillna("")
    print(markdown(list(shown), shown.itertuples(index=False)))
    at_a_time = f", {_number(hours / min(slots, len(left)))} hours with {slots} jobs at a time" if slots else ""
    print(f"\n{_number(hours)} hours of jobs, threads of each: {sweep.jobs.threads}{at_a_time}.")
    print("Scores and conversions come on top, and evaluations where the speed was measured now.")
    print(f"This machine: {describe()}")


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def run(args: argparse.Namespace) -> None:
    """Check, train and report."""
    th.set_num_threads(1)
    jobs = TrainingList(args.list, args.results, args.threads)
    sweep = Sweep(jobs, args.logs / args.list.stem)
    wanted = jobs.named(args.only)
    if args.status:
        jobs.check(wanted)
        _status(sweep, wanted)
        _say_what_is_outdated(sweep, wanted)
        return
    sweep.check(wanted)
    if args.dry_run:
        slots = args.jobs or (Local(Resources(args.threads, args.memory, args.gpus)).slots if args.on == "local" else None)
        _dry_run(sweep, wanted, slots)
        return
    _say_what_is_outdated(sweep, wanted)
    failed: list[Job] = []
    if not {job.name for job in wanted} <= jobs.records.names():
        engine = _engine(args, sweep.logs)
        with Progress(wanted, sweep) as progress:
            failed = sweep.run(wanted, engine, progress)
    if jobs.finished():
        _report(sweep)
    if failed:
        print(f"\nfailed, {len(failed)} of {len(wanted)} jobs:", file=sys.stderr)
        for job in failed:
            print(f"  {job.name}: {last_line(sweep.log(job))}\n    {sweep.log(job)}", file=sys.stderr)
        print(f"again: {_again(args, failed)}", file=sys.stderr)
        sys.exit(1)


def _again(args: argparse.Namespace, failed: list[Job]) -> str:
    """The command that repeats jobs."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["sb3-spiking", "sweep", str(args.list)]
    for name, default in vars(parser.parse_args([""])).items():
        value = getattr(args, name)
        if name not in ("list", "only") and value != default:
            values = ["=".join(map(str, each)) for each in value] if name == "slurm" else [str(value)]
            words += [f"--{name}", *values]
    return shlex.join([*words, "--only", *(job.name for job in failed)])
