"""The command `bayesft`: measure a trained network under faults from a shell."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

HELP = {
    "network": "module:function that builds the network (or module:name of one), for example nets:build",
    "weights": "its weights, a .safetensors file; - for the network as it is built",
    "data": "module:function that gives the data (or module:name of them): batches, a Dataset, or a tuple of tensors",
    "score": "accuracy (default), or module:function of (outputs, targets)",
    "forward": "module:function of (network, batch) to (outputs, targets)",
    "fault": "a fault of docs/faults.md by its name (default lognormal), or module:name of an object of one's own",
    "levels": "fault levels, in the fault's unit (default: those of the fault)",
    "draws": "faulty copies at each level (default 20)",
    "seed": "of the faults (default 0)",
    "where": "faulty parameters: all (default), weights, convolutions, or module:function of (name, module, parameter)",
    "device": "where to compute: cpu, cuda, cuda:1",
    "picture": "where to draw the curve (default robustness.png; always written)",
    "save": "a file for all numbers, to be read by Robustness.load",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 where an argument is wrong."""
    given = _parser().parse_args(arguments)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return _evaluate(given)
    except (ValueError, ImportError, AttributeError, OSError) as error:
        print(f"bayesft {given.command}: {error}", file=sys.stderr)
        return 2
    except (LookupError, RuntimeError, TypeError, ArithmeticError) as error:  # of the caller's functions
        at = extract_tb(error.__traceback__)[-1]
        where = f"{at.filename}, line {at.lineno}, in {at.name}"
        print(f"bayesft {given.command}: {type(error).__name__}: {error} ({where})", file=sys.stderr)
        return 2
    finally:
        sys.path.remove(here)


def _parser() -> argparse.ArgumentParser:
    from bayesft import __version__

    parser = argparse.ArgumentParser("bayesft", description="Neural networks that tolerate faults of analog weights.")
    parser.add_argument("--version", action="version", version=__version__)
    evaluate = parser.add_subparsers(dest="command", required=True).add_parser(
        "evaluate", help="measure a trained network under faults", description="Print a table and draw a picture."
    )
    for name in ("network", "weights", "data"):
        evaluate.add_argument(name, help=HELP[name])
    evaluate.add_argument("--levels", type=float, nargs="+", help=HELP["levels"])
    evaluate.add_argument("--draws", type=int, default=20, help=HELP["draws"])
    evaluate.add_argument("--seed", type=int, default=0, help=HELP["seed"])
    for name, default in (("score", "accuracy"), ("fault", "lognormal"), ("where", "all"), ("forward", None)):
        evaluate.add_argument(f"--{name}", default=default, help=HELP[name])
    for name in ("device", "save"):
        evaluate.add_argument(f"--{name}", help=HELP[name])
    evaluate.add_argument("--picture", default="robustness.png", help=HELP["picture"])
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _evaluate(given: argparse.Namespace) -> int:
    from bayesft.drift import any_fault
    from bayesft.hardening.measure import evaluate

    network = _network(given.network, given.weights)
    fault = _named(given.fault) if ":" in given.fault else any_fault(given.fault)
    found = evaluate(
        network,
        _made(given.data),
        score=_named(given.score) if ":" in given.score else given.score,
        forward=_named(given.forward) if given.forward else None,
        fault=fault,
        levels=given.levels,
        draws=given.draws,
        seed=given.seed,
        where=_named(given.where) if ":" in given.where else given.where,
        device=given.device,
        progress=not given.quiet,
    )
    print(found)
    if given.save:
        found.save(given.save)
    import matplotlib

    matplotlib.use("Agg")
    found.plot().figure.savefig(given.picture)
    print(f"drawn: {given.picture}")
    return 0


def _named(path: str) -> Any:
    """What `module:name` names."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{path}: must be module:name")
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _made(path: str) -> Any:
    """What `module:name` names, or what it gives if it is a function or a class."""
    import torch

    found = _named(path)
    if isinstance(found, torch.nn.Module) or not callable(found):
        return found
    try:
        return found()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: a call without arguments fails: {error}") from error


def _network(path: str, weights: str) -> Any:
    """The network that `module:name` names, with the weights of a file, or its own for "-"."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    network = _made(path)
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"{path}: gives {type(network).__name__}, must give a torch.nn.Module")
    if weights == "-":
        return network
    if not weights.endswith(".safetensors"):
        raise ValueError(f"{weights}: need weights in a .safetensors file, as safetensors.torch.save_model writes them")
    try:
        try:
            network.load_state_dict(load_file(weights))
        except RuntimeError:
            load_model(network, weights)  # a file of save_model has a parameter of several modules once
    except SafetensorError as error:
        raise ValueError(f"{weights}: damaged, or no safetensors file: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{weights}: no weights of {path}: {' '.join(str(error).split())}") from error
    return network
