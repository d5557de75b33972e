"""`ironloom check`: what is wrong with manifests and scripts before they are launched."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ironloom.check import baseline as baselines
from ironloom.check import patches, registry, reports
from ironloom.check.engine import Result, Setting
from ironloom.check.engine import check as check_inputs
from ironloom.check.finding import Severity
from ironloom.check.inputs import UNREADABLE, Inputs, read_paths
from ironloom.check.mend import Mended, mend
from ironloom.check.rule import Rule
from ironloom.check.setting import Config, find_config, minor_version, read_config
from ironloom.cli.output import plural, put, say
from ironloom.errors import ClusterError, IronloomError, ManifestError, UsageError
from ironloom.fleet.model import Fleet
from ironloom.workload.manifests import schema as schemas

if TYPE_CHECKING:
    from ironloom.catalog.accelerators import Accelerator
    from ironloom.workload.manifests.schema import Schema

_NOTHING = "There is nothing that --fix can mend."


def _words(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """`--select IL2,network --select IL301` as one tuple."""
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


def _version(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    version = minor_version(value) if value is not None else None
    if value is not None and (version is None or version[0] != 1):
        raise click.BadParameter(f"{value!r} is not a version such as 1.36")
    return version


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--fleet", "fleet_files", multiple=True, metavar="SNAPSHOT", type=click.Path(path_type=Path),
              help="A fleet to check against: a file of `kubectl get -o json` or `ironloom snapshot`.")  # fmt: skip
@click.option("--context", "context", metavar="NAME", help="Check against the live cluster of this kubeconfig context.")
@click.option("--levels", multiple=True, callback=_words, metavar="KEY,...",
              help="Node labels of the topology's levels, coarse to fine.")  # fmt: skip
@click.option("--accelerator", metavar="NAME", help="The GPU to judge fits by, such as H100-80GB.")
@click.option(
    "--kubernetes-version", callback=_version, metavar="VERSION", help="Such as 1.36; the fleet's by default."
)
@click.option("--select", multiple=True, callback=_words, metavar="RULE,...", help="Only these rules or families.")
@click.option("--ignore", multiple=True, callback=_words, metavar="RULE,...", help="Not these rules or families.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not these files of a folder; repeatable.")
@click.option("--skip-others", is_flag=True, help="Pass over files that hold something else, as in a folder.")
@click.option("--fail-on", type=click.Choice([severity.value for severity in Severity]),
              help="Exit with 1 for a finding of this severity or above. Default: warning.")  # fmt: skip
@click.option("--fix", "fix", is_flag=True, help="Put the safe fixes into the files, then tell what is left.")
@click.option("--diff", "diff", is_flag=True, help="Show what --fix would change, and change nothing.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix or --diff: those too that a person must choose.")
@click.option("--baseline", type=click.Path(path_type=Path), metavar="FILE",
              help="Say nothing of the findings in this file.")  # fmt: skip
@click.option("--write-baseline", type=click.Path(path_type=Path), metavar="FILE",
              help="Write today's findings to a file, for --baseline.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE",
              help="In place of the ironloom.toml or pyproject.toml that is found upward.")  # fmt: skip
@click.option("-o", "--output", type=click.Choice(reports.FORMATS), default="text", metavar="FORMAT", show_default=True,
              help=f"Output format: {', '.join(reports.FORMATS[:-1])} or {reports.FORMATS[-1]}.")  # fmt: skip
def check(
    files: tuple[Path, ...],
    fleet_files: tuple[Path, ...],
    context: str | None,
    levels: tuple[str, ...],
    accelerator: str | None,
    kubernetes_version: tuple[int, int] | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    exclude: tuple[str, ...],
    skip_others: bool,
    fail_on: str | None,
    fix: bool,
    diff: bool,
    unsafe_fixes: bool,
    baseline: Path | None,
    write_baseline: Path | None,
    config: Path | None,
    output: str,
) -> int:
    """Say what is wrong with manifests before a launch.

    Python scripts that serve or train are read too, and never run.

    \b
    ironloom check deploy.yaml                         one file
    ironloom check manifests/ train.py                 a folder, a script
    helm template . | ironloom check -                 what a chart renders to
    ironloom check job.yaml --fleet nodes.json         against the nodes that there are
    ironloom check manifests/ --fix                    put the safe fixes in

    Exit status: 0 nothing at the level of --fail-on, 1 something, 2 bad use or a file that cannot be read.
    """
    settings = read_config(config) if config is not None else find_config(Path.cwd())
    is_choice = select or ignore or settings.select or settings.ignore
    rules = _rules(settings, select, ignore) if is_choice else None
    unread: IronloomError | None = None
    fleet, schema = None, None
    try:
        fleet = _fleet(fleet_files or tuple(map(Path, settings.fleet)), context, levels or settings.levels)
        schema = _schema(context)
    except (ClusterError, ManifestError) as error:
        if write_baseline is not None:
            raise  # it would hold less than a check against the fleet finds
        unread = error
    setting = Setting(
        fleet=fleet,
        accelerator=_accelerator(accelerator or settings.accelerator),
        kubernetes_version=kubernetes_version or settings.kubernetes_version,
        schema=schema,
    )
    if told := _beyond_the_tables(setting):
        say(told)
    known = baseline or (Path(settings.baseline) if settings.baseline else None)
    marks = baselines.load(known) if known is not None and write_baseline is None else Counter[str]()

    def look(inputs: Inputs) -> Result:
        return baselines.subtract(check_inputs(inputs, rules, setting), marks)

    if fix and Path("-") in files:
        raise UsageError("Standard input has no file to put fixes into", hint="--diff shows them")
    own = tuple(_inside(files, known or write_baseline))
    inputs = read_paths(files, exclude=(*exclude, *settings.exclude, *own), skip_others=skip_others)
    if write_baseline is not None:
        return _write_baseline(look(inputs), write_baseline)
    if diff:
        result = look(inputs)
        _diff(mend(inputs, look, unsafe=unsafe_fixes), result)
    elif fix:
        result = _fix(inputs, look, unsafe=unsafe_fixes)
        _report(result, output)
    else:
        result = look(inputs)
        _report(result, output)
    if unread is not None:
        say(f"{unread.render()}\n\nThe files were checked without a fleet.")
        return unread.exit_status
    return result.exit_status(Severity(fail_on) if fail_on else settings.fail_on)


def _inside(folders: Iterable[Path], file: Path | None) -> Iterator[str]:
    """Globs that leave a file of ours, the baseline, out of the folders that it stands in."""
    for folder in folders:
        if file is not None and folder.is_dir() and file.resolve().is_relative_to(folder.resolve()):
            yield glob.escape(file.resolve().relative_to(folder.resolve()).as_posix())


def _beyond_the_tables(setting: Setting) -> str:
    """What a version of Kubernetes is held against that no table is of; empty where there is one, or no version."""
    version = setting.kubernetes_version or minor_version(setting.fleet.version if setting.fleet is not None else "")
    if version is None or setting.schema is not None:
        return ""
    oldest, newest = schemas.minors()
    if oldest <= version[1] <= newest:
        return ""
    end, nearest = ("oldest", oldest) if version[1] < oldest else ("newest", newest)
    return (
        f"No table is of Kubernetes 1.{version[1]}: kinds and fields are held against 1.{nearest}, the {end} that is "
        f"known (1.{oldest} to 1.{newest} are)."
    )


def _rules(settings: Config, select: Sequence[str], ignore: Sequence[str]) -> Sequence[Rule]:
    """The rules that the options choose, over those that the config file does."""
    try:
        registry.select(settings.select, settings.ignore)
    except UsageError as error:
        raise UsageError(f"{settings.file}: {error.message[:1].lower()}{error.message[1:]}", hint=error.hint) from None
    return registry.select(select or settings.select, (*ignore, *settings.ignore))


def _fix(inputs: Inputs, look: Callable[[Inputs], Result], *, unsafe: bool) -> Result:
    mended = mend(inputs, look, unsafe=unsafe)
    patches.write(mended.files)
    say(f"{mended.num_mended} fixed." if mended.num_mended else _NOTHING)
    return mended.result


def _diff(mended: Mended, result: Result) -> None:
    """What --fix would change; beside it what keeps the command from saying more."""
    if mended.files:
        put(patches.diff(mended.files).rstrip("\n"))
    else:
        say(_NOTHING)
    for finding in result.findings:
        if finding.rule == UNREADABLE:
            place = f"{finding.file}:{finding.line}:{finding.column}" if finding.line else finding.file
            say(f"{place}: {finding.message}")


def _write_baseline(result: Result, path: Path) -> int:
    text = baselines.dump(result)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    number = len(result.findings)
    said = f"{plural(number, 'finding')} {'is' if number == 1 else 'are'} in {path}"
    say(f"{said}: `ironloom check … --baseline {path}` says nothing of {'it' if number == 1 else 'them'}.")
    return 2 if result.is_unreadable else 0


def _report(result: Result, output: str) -> None:
    if output == "text" and sys.stdout.isatty():
        from ironloom.check.reports import text

        put(text.render(result, style=click.style))
    else:
        put(reports.render(result, output))
    for fault in result.faults:
        say(f"error: {fault}")


def _fleet(files: Iterable[Path], context: str | None, levels: Iterable[str]) -> Fleet | None:
    paths = list(files)
    if context is not None:
        if paths:
            raise UsageError("--fleet and --context are two fleets, and a check is against one.")
        from ironloom.cli.cluster import live_fleet

        return live_fleet(context, tuple(levels))
    if not paths:
        return None
    from ironloom.fleet.snapshot import read_snapshot

    return read_snapshot(paths, levels=tuple(levels))


def _schema(context: str | None) -> Schema | None:
    if context is None:
        return None
    from ironloom.cli.cluster import live_schema

    return live_schema(context)


def _accelerator(name: str) -> Accelerator | None:
    if not name:
        return None
    from ironloom.catalog import accelerators
    from ironloom.workload.manifests.suggest import nearest

    found = accelerators.find(name)
    if found is None:
        near = nearest(name, accelerators.ACCELERATORS)
        did = f"; did you mean {near}?" if near else ""
        raise UsageError(f"There is no accelerator {name!r} in the catalogue{did}", hint="such as H100-80GB or H200")
    return found
