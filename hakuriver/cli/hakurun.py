"""`hakurun`, which is `hakuriver hakurun` too: a thin layer over the package hakuriver.hakurun."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator

import click

from hakuriver.cli.common import clean
from hakuriver.cli.frame import SETTINGS, Command
from hakuriver.cli.tables import bar, is_terminal
from hakuriver.errors import Invalid
from hakuriver.hakurun import running, spans, targets
from hakuriver.hakurun.running import Tally
from hakuriver.hakurun.spans import Sweep
from hakuriver.hakurun.targets import Run, Target

#: Values that a span in the place of TARGET may have: each is looked for before anything runs.
TARGETS_MAX = 1000
REDRAW_S = 0.2


class _WithSubmit(Command):
    """Leaves what stands after --submit to `hakuriver submit`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Cut the arguments after --submit, if it is one of our options."""
        at = self._place_of_submit(args)
        ctx.meta["hakurun.submit"] = args[at + 1 :]
        return super().parse_args(ctx, args[: at + 1])

    def _place_of_submit(self, args: list[str]) -> int:
        """Its index, or else that of the last argument."""
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            if args[at] == "--submit":
                return at
            at += 2 if args[at] == "-j" else 1
        return len(args) - 1


@click.command(cls=_WithSubmit, context_settings={"allow_interspersed_args": False})
@click.option(
    "--parallel", is_flag=True,
    help="Several at a time: as many as the task has cores, or else as there are CPUs. Their input is empty, "
    "and their output mixes as it comes.",
)  # fmt: skip
@click.option(
    "-j", "at_once", type=click.IntRange(1), metavar="N", help="So many at a time, here or of the tasks of --submit."
)
@click.option("--dry-run", is_flag=True, help="Print the commands, one a line, as a shell reads them; run none.")
@click.option(
    "--submit", is_flag=True,
    help="Send all as one job, a task for each combination, in place of running them here. "
    "Options of `hakuriver submit` may follow it; it comes after hakurun's own.",
)  # fmt: skip
@click.argument("words", metavar="[--] TARGET [ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def hakurun(
    context: click.Context, parallel: bool, at_once: int | None, dry_run: bool, submit: bool, words: tuple[str, ...]
) -> int:
    """Run TARGET once for each combination of the spans in its ARGS; the last varies fastest.

    \b
    span:{1..10}  span:{10..1..3}  span:{a..e}   ranges, both ends included
    span:{01..10}                                with zeros in front: text
    span:[adam,sgd]  span:["a, b",c\\,d]          lists of text
    --rate=span:[0.1,0.01]                       after NAME= as well: text

    Quote spans, or the shell expands their braces. Any other span:TEXT is TEXT. All after TARGET is TARGET's own.

    TARGET is module:function, else a program on PATH or a path, else a module, which is run as by python -m. A
    function gets numbers of spans as int and all else as str; it fails if it raises, whatever it returns.
    Modules and functions run in the Python of hakurun; for another one write python -m MODULE.

    Exit status: of a single run its own (128 + N: signal N killed it); else 0 if all succeeded, 1 if any failed;
    2 usage; 127 no such program or module; 130 interrupted. Ctrl-C ends the runs and starts no more; a second one
    kills them.

    With --submit each task computes its combination in sh, without hakurun (a function needs hakurun where
    tasks run); TARGET is looked for by each task, which starts in shared_data, or in --workdir.

    \b
    Example:
      hakurun python train.py 'span:{1..3}' 'span:[adam,sgd]'          # six runs
      hakurun --parallel sweep:train 'span:{1..8}'                     # train(1), train(2), ...
      hakurun -j 2 ./convert.sh 'span:[a.png,b.png]'
      hakurun --dry-run -- python train.py '--rate=span:[0.1,0.01]'
      hakurun --submit --cores 4 --wait -- python train.py 'span:{1..100}'
      hakurun -j 8 --submit --memory 4G -- python train.py 'span:{1..100}'
      hakurun hakuriver.client --target n1 -- python train.py 'span:{1..10}'    # ten jobs
      hakuriver submit --cores 4 -- hakuriver hakurun --parallel ./part.sh 'span:{1..40}'
    """
    if submit:
        return _submit(context, at_once, dry_run)
    if not words:
        raise click.UsageError("TARGET is missing: write a program, module or module:function, as hakurun echo hi")
    _warn(words)
    sweep = Sweep([spans.parse(word) for word in words])
    try:
        found = _targets(sweep)
    except targets.NotFound as error:
        _say(str(error))
        return running.NOT_FOUND
    if dry_run:
        return _print(sweep, found)
    width = at_once or (_own_cores() if parallel else 1)
    return _run(sweep, found, width)


def _say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(f"hakurun: {clean(text)}\n")
    sys.stderr.flush()


def _warn(words: tuple[str, ...]) -> None:
    for expanded, meant in spans.expanded_by_shell(words):
        seen = f"{expanded[0]} ... {expanded[-1]}" if len(expanded) > 3 else " ".join(expanded)
        _say(
            f"warning: the shell has expanded a span: {seen} are {len(expanded)} arguments of each run; "
            f"quote it, as '{meant}'"
        )


def _targets(sweep: Sweep) -> dict[str, Target]:
    """What the first argument may be, by name."""
    span = sweep.spans[0]
    if len(span.values) > TARGETS_MAX:
        raise Invalid("argument", f"{len(span.values):,} values", f"TARGET may have {TARGETS_MAX:,}")
    names = [str(span.at(index)) for index in range(len(span.values))]
    return {name: targets.resolve(name) for name in names}


def _print(sweep: Sweep, found: dict[str, Target]) -> int:
    for index in range(sweep.total):
        name, *values = sweep.combination(index)
        sys.stdout.buffer.write(os.fsencode(found[str(name)].line(values)) + b"\n")
    return 0


def _own_cores() -> int:
    """The cores of the task that this is, or the CPUs that this process may use."""
    cores = os.environ.get("HAKURIVER_CORES", "")
    return int(cores) if cores.isdecimal() and int(cores) > 0 else len(os.sched_getaffinity(0))


# -- here


def _run(sweep: Sweep, found: dict[str, Target], at_once: int) -> int:
    telling = _Telling(sweep.total, min(at_once, sweep.total))
    telling.begin()
    tally = running.run_all(_runs(sweep, found), at_once, telling)
    telling.summarize(tally)
    return tally.exit_status(sweep.total)


def _runs(sweep: Sweep, found: dict[str, Target]) -> Iterator[Run]:
    for index in range(sweep.total):
        name, *values = sweep.combination(index)
        yield found[str(name)].run(values)


class _Telling:
    """Tells on stderr how it goes: a line for each run, or a bar where the output of runs does not disturb it.

    Of a single run nothing is told, but what its own exit status does not say.
    """

    def __init__(self, total: int, at_once: int) -> None:
        self._total = total
        self._at_once = at_once
        self._bar = total > 1 and is_terminal(sys.stderr) and not is_terminal(sys.stdout)
        self._began = time.monotonic()
        self._drawn = 0.0

    def begin(self) -> None:
        """How many runs there are."""
        if self._total > 1:
            how = f"{self._at_once:,} at a time" if self._at_once > 1 else "one after the other"
            _say(f"{self._total:,} runs, {how}")

    def started(self, number: int, run: Run) -> None:
        if self._total > 1 and not self._bar:
            _say(f"Task {number}/{self._total}: {run.shown}")

    def ended(self, number: int, run: Run, status: int) -> None:
        if status < 0 or (status > 0 and self._total > 1):
            self._tell(f"Task {number}/{self._total} {_ending(status)}: {run.shown}")

    def not_started(self, number: int, run: Run, error: OSError) -> None:
        hint = "; its first line must name an interpreter, as #!/bin/sh" if "Exec format" in str(error) else ""
        self._tell(f"Task {number}/{self._total} could not start: {error.strerror}{hint}: {run.shown}")

    def waiting(self, running: int, tally: Tally) -> None:
        now = time.monotonic()
        if self._bar and now - self._drawn > REDRAW_S:
            self._drawn = now
            failed = f", {tally.failed:,} failed" if tally.failed else ""
            done = tally.succeeded + tally.failed
            sys.stderr.write("\r\x1b[K" + bar(done, self._total, now - self._began, f"{running} running{failed}"))
            sys.stderr.flush()

    def summarize(self, tally: Tally) -> None:
        """What came of all."""
        left = self._total - tally.succeeded - tally.failed
        not_started = f"{left:,} of {self._total:,} runs were not started"
        if tally.signal == signal.SIGPIPE:
            if left:
                self._tell(f"stopped (nobody reads the output): {not_started}")
        elif tally.signal:
            self._tell(f"stopped ({signal.Signals(tally.signal).name}): {not_started}{_failures(tally)}")
        elif self._total > 1:
            self._tell(f"{tally.succeeded:,} of {self._total:,} runs succeeded{_failures(tally)}")

    def _tell(self, text: str) -> None:
        if self._bar:
            sys.stderr.write("\r\x1b[K")
        _say(text)


def _ending(status: int) -> str:
    if status > 0:
        return f"exited with {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else "a real-time signal"
    return f"was killed by signal {-status} ({name})"


def _failures(tally: Tally) -> str:
    if not tally.failed:
        return ""
    first = ", ".join(f"{number} ({running.shell_status(status)})" for number, status in tally.failures)
    more = f" and {tally.failed - len(tally.failures):,} more" if tally.failed > len(tally.failures) else ""
    return f"; failed: {first}{more}"


# -- as tasks of one job


def _submit(context: click.Context, at_once: int | None, dry_run: bool) -> int:
    from hakuriver.cli.submit import submit

    arguments: list[str] = context.meta["hakurun.submit"]
    try:
        inner = submit.make_context(f"{context.command_path} --submit", list(arguments), **SETTINGS)
    except click.NoSuchOption as error:
        if any(error.option_name in parameter.opts for parameter in context.command.params):
            raise click.UsageError(f"{error.option_name} is hakurun's own: write it before --submit", context) from None
        raise
    inner.meta.update({**context.meta, **inner.meta})
    words: tuple[str, ...] = inner.params["command"]
    if not words:
        raise click.UsageError("TARGET is missing: write it after --, as hakurun --submit -- python train.py", inner)
    if inner.params["from_file"] or inner.params["array"]:
        option = "--from" if inner.params["from_file"] else "--array"
        raise click.UsageError(f"{option} does not go with hakurun: the spans make the tasks", inner)
    _warn(words)
    command, array = _job(words, at_once)
    if dry_run:
        return _print_submission(arguments[: -len(words)], command, array)
    inner.params.update(command=tuple(command), array=array)
    with inner:
        status: int = submit.invoke(inner)
    return status


def _job(words: tuple[str, ...], at_once: int | None) -> tuple[list[str], str | None]:
    """The command of all tasks, and the array."""
    from hakuriver.hakurun.script import job_command

    first, *rest = (spans.parse(word) for word in words)
    if len(first.values) > 1:
        return job_command([], Sweep([first, *rest]), False, at_once)
    target = _elsewhere(str(first.at(0)))
    return job_command(target.portable(), Sweep(rest), target.kind == "function", at_once)


def _elsewhere(name: str) -> Target:
    """What a name is taken for on the nodes, which may have what is not here, in containers all the more."""
    try:
        return targets.resolve(name)
    except targets.NotFound:
        _say(f"{name} is not found here; the tasks run it as a program of their nodes")
        return Target("program", name)


def _print_submission(options: list[str], command: list[str], array: str | None) -> int:
    if options and options[-1] == "--":
        options = options[:-1]
    indices = ["--array", array] if array else []
    line = shlex.join(["hakuriver", "submit", *options, *indices, "--", *command])
    sys.stdout.buffer.write(os.fsencode(line) + b"\n")
    return 0
