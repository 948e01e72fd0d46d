"""This file holds `dwindle study`: the experiments of the literature, run again beside what was published."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dwindle.cli.console import print_json, stderr, stdout

if TYPE_CHECKING:
    from dwindle.studies.plan import Choice, Node
    from dwindle.studies.standing import Standing
    from dwindle.studies.study import Study

study = typer.Typer(
    name="study", help="Run an experiment of the literature again, beside what was published.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="A study of the package (see list), or a file.toml of your own.")]
PresetName = Annotated[
    str | None, typer.Option("--preset", help="How much work is done; laptop, or the study's first.", metavar="NAME")
]
TableId = Annotated[
    str | None, typer.Option("--table", help="Only what this table of the study needs.", metavar="TABLE")
]
Networks = Annotated[str | None, typer.Option(help="Only these networks, separated by commas.", metavar="NAMES")]
DataSets = Annotated[str | None, typer.Option("--data", help="Only these data sets, likewise.", metavar="NAMES")]
Seeds = Annotated[str | None, typer.Option(help="These seeds instead of the preset's, likewise.", metavar="NUMBERS")]
AsPublished = Annotated[bool, typer.Option("--as-published", help="The published protocol, its slips included.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the ledger and the files; out/studies/NAME.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of this process; all that the machine has.")]
Trials = Annotated[int | None, typer.Option(min=1, help="How many draws; those that the study says.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

FAILED: Final = 1


@study.command("list")
def list_studies(*, as_json: AsJson = False) -> None:
    """List the studies of the package, and how much work each preset is."""
    from dwindle.studies.read import known_studies, load_study

    studies = [load_study(name) for name in known_studies()]
    if as_json:
        print_json({
            "studies": [
                {
                    "name": found.name,
                    "title": found.title,
                    "source": found.source,
                    "presets": {name: found.preset(name).about for name in found.presets},
                    "tables": {table.id: table.title for table in found.tables},
                }
                for found in studies
            ]
        })  # fmt: skip
        return
    for found in studies:
        stdout.print(f"{found.name}  {found.title}\n  {found.source}", markup=False)
        for name in found.presets:
            stdout.print(f"  --preset {name}: {found.preset(name).about}", markup=False)


@study.command("show")
def show(
    name: Name,
    *,
    preset: PresetName = None,
    table: TableId = None,
    networks: Networks = None,
    data: DataSets = None,
    seeds: Seeds = None,
    as_published: AsPublished = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study runs, how much work that is, and what of it is done already."""
    from dwindle.cli.study_words import plain_plan, print_plan
    from dwindle.studies.plan import unfold

    found = _load(name)
    choice = _choice(found, preset, table, networks=networks, data=data, seeds=seeds, as_published=as_published)
    nodes, folder = unfold(found, choice), _folder(found, out)
    standing = _standing(folder)
    if as_json:
        print_json(plain_plan(found, choice, nodes, standing=standing))
    else:
        print_plan(found, choice, nodes, standing=standing)


@study.command("run")
def run(
    name: Name,
    *,
    preset: PresetName = None,
    table: TableId = None,
    networks: Networks = None,
    data: DataSets = None,
    seeds: Seeds = None,
    as_published: AsPublished = False,
    out: Out = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Run a study, or what is missing of it; write NAME.md and NAME.html.

    Start the same command in several terminals: the processes share the work. Killed at any moment, the same command
    goes on at the last epoch. What fails is listed in the end (exit code 1); the next run tries it again.
    """
    import torch

    from dwindle.cli.study_bars import StudyBars
    from dwindle.studies.plan import unfold
    from dwindle.studies.run import Worker

    found = _load(name)
    choice = _choice(found, preset, table, networks=networks, data=data, seeds=seeds, as_published=as_published)
    nodes, folder = unfold(found, choice), _folder(found, out)
    with StudyBars() as bars:
        failed = Worker(
            nodes=nodes,
            folder=folder,
            home=_home(name),
            n_threads=torch.get_num_threads() if threads is None else threads,
            on_progress=bars,
        ).run()
    _finish(found, choice, nodes, folder=folder, failed=failed, as_json=as_json)


@study.command("report")
def report(name: Name, *, out: Out = None, as_json: AsJson = False) -> None:
    """Write NAME.md and NAME.html from whatever the ledger of a study holds so far."""
    found = _load(name)
    folder = _folder(found, out)
    written = _write_pages(found, folder, _standing(folder))
    if as_json:
        print_json({"study": found.name, "files": [str(path) for path in written]})
    else:
        for path in written:
            stdout.print(str(path), markup=False)


@study.command("search")
def search(
    name: Name,
    *,
    preset: PresetName = None,
    trials: Trials = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    out: Out = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Search for the hyperparameters of a study at random, judged on validation data; needs dwindle[search].

    The folder's search.jsonl holds the trials. Killed at any moment, the same command goes on; several share the work.
    """
    from dwindle.cli.study_search import print_trials
    from dwindle.studies.search import TRIALS, Searcher, search_of

    found = _load(name)
    folder, asked = _folder(found, out), search_of(found)
    chosen = _choice(found, preset, None, networks=None, data=None, seeds=None, as_published=False).preset
    with _torch_threads(threads):
        searcher = Searcher(study=found, preset=chosen, folder=folder, home=_home(name), seed=seed)
        done = searcher.run(asked.n_trials if trials is None else trials)
    if as_json:
        print_json({"study": found.name, "preset": chosen, "trials": [vars(trial) for trial in done]})
    else:
        print_trials(done, asked, file=folder / TRIALS)


@contextmanager
def _torch_threads(n: int | None) -> Generator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if n is None else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(name: str) -> Study:
    from dwindle.studies.read import load_study

    return load_study(name)


def _home(name: str) -> Path:
    """Return what "file.py:function" in the study is relative to."""
    return Path(name).resolve().parent if name.endswith(".toml") else Path.cwd()


def _folder(found: Study, out: Path | None) -> Path:
    from dwindle.studies.run import require_folder

    folder = Path("out/studies") / found.name if out is None else out
    require_folder(folder)
    return folder


def _standing(folder: Path) -> Standing:
    from dwindle.bench.ledger import Ledger
    from dwindle.studies.run import LEDGER
    from dwindle.studies.standing import Standing

    standing = Standing(ledger=Ledger(folder / LEDGER))
    standing.refresh()
    return standing


def _choice(
    found: Study,
    preset: str | None,
    table: str | None,
    *,
    networks: str | None,
    data: str | None,
    seeds: str | None,
    as_published: bool,
) -> Choice:
    from dwindle.studies.plan import Choice

    usual = "laptop" if "laptop" in found.presets else next(iter(found.presets))
    return Choice(
        preset=preset if preset is not None else usual,
        networks=_listed(networks),
        data=_listed(data),
        seeds=tuple(_seed(text) for text in _listed(seeds)),
        table=table,
        as_published=as_published,
    )


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"--seeds: {text!r} is no whole number; write them as 0,1,2") from error


def _write_pages(found: Study, folder: Path, standing: Standing) -> tuple[Path, Path]:
    from dwindle.studies.pages import write_pages

    return write_pages(found, standing.entries, folder)


def _finish(
    found: Study, choice: Choice, nodes: Sequence[Node], *, folder: Path, failed: Sequence[str], as_json: bool
) -> None:
    """Write the pages, say what came out and what failed, and end with the exit code."""
    from dwindle.cli.study_words import plain_outcome, print_tables

    standing = _standing(folder)
    n_done = sum(node.key in standing.done for node in nodes)
    written = _write_pages(found, folder, standing) if n_done else ()
    if as_json:
        print_json(plain_outcome(found, choice, nodes, standing=standing, failed=failed, written=written))
    elif n_done:
        print_tables(found, choice, standing=standing)
        for path in (*written, standing.ledger.path):
            stdout.print(str(path), markup=False)
    if failed:
        n_left = len(nodes) - n_done - len(failed)
        stderr.print(f"failed: {len(failed)} of {len(nodes)} outcomes; left out because of that: {n_left}")
        for words in failed:
            stderr.print(f"  {words}", markup=False)
        raise typer.Exit(FAILED)
