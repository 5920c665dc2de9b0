"""Command lines: ``run_recbole_hnlm.py`` and ``recbole-hnlm``, which builds, compares, analyses and checks."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections import ChainMap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

logger = logging.getLogger(__name__)
_FURTHER = "Every --key=value beside these is a setting of RecBole or recbole_hnlm, as in a YAML file."
_UNNAMED = {"model": "LightGCN", "dataset": "ml-100k"}
"""What a command takes where neither a flag nor a file names it."""


def run_main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    """Train and evaluate; every other ``--key=value`` is a RecBole or recbole_hnlm option.

    A user's error ends with its message and status 2 instead of a traceback.
    """
    parser = argparse.ArgumentParser(prog="run_recbole_hnlm.py", description=run_main.__doc__)
    _add_common(parser)
    parser.add_argument("--nproc", type=int, default=1, help="processes on this host")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all hosts")
    parser.add_argument("--ip", default="localhost", help="address of the host with rank 0")
    parser.add_argument("--port", default=None, help="port of the host with rank 0 (5678; a free one on a single host)")
    parser.add_argument("--group_offset", type=int, default=0, help="rank of this host's first process")
    parser.add_argument("--compare_base", action="store_true", help="also train the model as RecBole does, and compare")
    args, unknown = parser.parse_known_args(arguments)
    group = {key: getattr(args, key) for key in ("nproc", "world_size", "ip", "port", "group_offset")}

    def work() -> dict[str, Any] | None:
        from recbole_hnlm.config import PlainConfig
        from recbole_hnlm.launch import launch
        from recbole_hnlm.report import comparison_lines, run_name

        named, results = _with_names(args), []
        if args.compare_base:
            plain = launch(named.model, named.dataset, _files(args), processes=group, config_class=PlainConfig)
            results.append((f"{named.model}, RecBole", plain))
        result = launch(named.model, named.dataset, _files(args), processes=group)
        results.append((run_name(named.model, result) if result is not None else "", result))
        told = [(name, ran) for name, ran in results if ran is not None and ran["test_result"] is not None]
        if told:
            logging.getLogger().info("\n%s", "\n".join(comparison_lines(told)))
        return result

    return _guarded(work, sys.argv[1:] if arguments is None else arguments, unknown)


def main(arguments: list[str] | None = None) -> None:
    """``recbole-hnlm``: the offline part and its files, comparisons, analyses and the leak check."""
    from recbole_hnlm.leak_command import add_leak_parser

    arguments = sys.argv[1:] if arguments is None else arguments
    own = {"compare": _compare, "analyse": _analyse}.get(arguments[0] if arguments else "")
    if own is not None:
        _guarded(lambda: own(arguments[1:]), (), ())
        return
    parser = argparse.ArgumentParser(prog="recbole-hnlm", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make the artefacts of a dataset")
    _add_common(build)
    build.add_argument("--dry_run", action="store_true", help="tell what a chat model would take, and stop")
    _add_common(commands.add_parser("inspect", help="show what is in them"))
    export = commands.add_parser("export", help="artefacts to atomic text files, or a checkpoint to safetensors")
    _add_common(export)
    export.add_argument("--checkpoint", type=Path, help="a .pth file, exported instead of the artefacts")
    export.add_argument("--output", type=Path, default=Path("exported"), help="folder for an exported checkpoint")
    commands.add_parser("compare", help="tune and train a grid of rows alike, and make its tables", add_help=False)
    commands.add_parser("analyse", help="one analysis: ablation, alpha, sparsity ... as table and plot", add_help=False)
    _add_common(add_leak_parser(commands))
    args, unknown = parser.parse_known_args(arguments)
    commands_of = {"build": _build, "inspect": _inspect, "export": _export, "check-leak": _check_leak}

    def work() -> None:
        """Carry the command out on what its files name."""
        commands_of[args.command](_with_names(args))

    _guarded(work, arguments, unknown)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "-m", help="name of a RecBole general model (as the files say, or LightGCN)")
    parser.add_argument("--dataset", "-d", help="name of the dataset (as the files say, or ml-100k)")
    parser.add_argument("--config_files", nargs="+", default=None, help="YAML files, separated by spaces")
    parser.epilog = _FURTHER


def _with_names(args: argparse.Namespace) -> argparse.Namespace:
    """With model and dataset of the YAML files where no flag names them, and our own where nothing does."""
    import yaml

    from recbole_hnlm.user_settings import read_settings_files

    flags = {key: value for key, value in vars(args).items() if key not in _UNNAMED or value is not None}
    named = ChainMap(*reversed(read_settings_files(_files(args), yaml.FullLoader)), _UNNAMED)
    return argparse.Namespace(**{key: named[key] for key in _UNNAMED} | flags)


def _files(args: argparse.Namespace) -> list[str] | None:
    from recbole_hnlm.user_settings import files_named

    return files_named(args.config_files)


def _guarded(work: Callable[[], Any], arguments: Sequence[str], unknown: Sequence[str]) -> Any:
    """Do the work under the command's settings; whatever a user can mend ends with its message and status 2.

    Args:
        work: What to do.
        arguments: All arguments of the command.
        unknown: Those that it does not know itself, which have to be settings.
    """
    from recbole_hnlm.compat.arguments import settings_alone
    from recbole_hnlm.options.imports import import_from_here
    from recbole_hnlm.user_settings import split_setting

    import_from_here()  # a console script finds no module beside the user's files
    try:
        for argument in unknown:
            split_setting(argument)
        with settings_alone(arguments):
            return work()
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was built or answered is kept, and the log names the best epoch's checkpoint\n")
        raise SystemExit(130) from None
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError) as error:
        logger.debug("what led to the error", exc_info=True)
        _end_with(error)
    except RuntimeError as error:
        from recbole_hnlm.llm.backends.outcome import RunStopped

        if not isinstance(error, RunStopped):
            raise
        _end_with(error)


def _end_with(error: Exception) -> NoReturn:
    sys.stderr.write(f"{type(error).__name__}: {error}{_place_of(error)}\n")
    raise SystemExit(2) from error


def _place_of(error: Exception) -> str:
    """Where an error arose that nobody of this package has put into words."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(Path(__file__).parent)
    if ours or isinstance(error, (OSError, NotImplementedError)):
        return ""
    return f" (in {frame.name} of {'/'.join(Path(frame.filename).parts[-3:])}, line {frame.lineno})"


def _build(args: argparse.Namespace) -> None:
    """Alone, or as one of the processes of ``torchrun --nproc-per-node=N -m recbole_hnlm.cli build ...``."""
    from recbole_hnlm.building.planning import plan
    from recbole_hnlm.building.preparing import needs_anything
    from recbole_hnlm.config import MainConfig
    from recbole_hnlm.llm.sharding import group
    from recbole_hnlm.quick_start import prepare, split

    config = MainConfig(args.model, args.dataset, _files(args))
    if config.run is None or not needs_anything(config.run):
        raise ValueError("these settings read no text and no trees, so there is nothing to build; use neg_sampler=hnlm")
    if args.dry_run:
        sys.stdout.write(plan(config, config.run, split(config)[0]) + "\n")
        return
    with group():
        prepare(config)


def _compare(arguments: list[str]) -> None:
    from recbole_hnlm.compare.command import main as compare

    compare(arguments)


def _analyse(arguments: list[str]) -> None:
    from recbole_hnlm.compare.analyse_command import main as analyse

    analyse(arguments)


def _artefacts_of(args: argparse.Namespace) -> Path:
    from recbole_hnlm.config import MainConfig
    from recbole_hnlm.models.text import artefact_directory
    from recbole_hnlm.options import HNLMOptions

    config = MainConfig(args.model, args.dataset, _files(args))
    options = config.run.hnlm if config.run is not None and config.run.hnlm is not None else HNLMOptions()
    return artefact_directory(config, options)


def _inspect(args: argparse.Namespace) -> None:
    from recbole_hnlm.artefacts import describe

    sys.stdout.write(describe(_artefacts_of(args), args.dataset) + "\n")


def _export(args: argparse.Namespace) -> None:
    if args.checkpoint is not None:
        from recbole_hnlm.export import export_checkpoint

        weights, settings = export_checkpoint(args.checkpoint, args.output)
        sys.stdout.write(f"{weights}\n{settings}\n")
        return
    from recbole_hnlm.artefacts import export_text

    directory = _artefacts_of(args)
    export_text(directory, args.dataset)
    sys.stdout.write(f"{directory / args.dataset}.hnlm_emb and .item_text written as text\n")


def _check_leak(args: argparse.Namespace) -> None:
    from recbole_hnlm.leak_command import run_leak_check

    run_leak_check(args, _files(args))


if __name__ == "__main__":
    main()
