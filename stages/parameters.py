"""params.yaml and scales.yaml: read, checked, and what they mean for each task."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML, YAMLError

from bayesft.data.fetch import checked_mirror
from bayesft.methods import load as load_method
from bayesft.settings import Recipe, SearchSettings
from bayesft.tasks import TASKS
from stages.checks import contradictions, explain, wrong_layers, wrong_mirror
from stages.schema import FTT, PARAMETERS, SCALES, UNSEARCHED, Budget, FttBudget, Knobs, ParameterError, Row


class Parameters(Knobs):
    """All of params.yaml, and what it means for each task."""

    @property
    def mirror(self) -> str | None:
        """Where published files are looked for first.

        Raises:
            ValueError: The address is not allowed.
        """
        return checked_mirror(self.data.mirror or os.environ.get("BAYESFT_MIRROR"))

    def row(self, name: str) -> Row:
        """A row of the report."""
        given = self.methods[name]
        own = {key: value for key, value in given.items() if key in Row.model_fields}
        rest = {key: value for key, value in given.items() if key not in own}
        return Row.model_validate({"method": name, **own, "settings": rest}, strict=True)

    def layers(self, task: str) -> tuple[str, ...]:
        """The layers of a task's budget, in the order in which they change one another."""
        if task in TASKS:
            family = (TASKS[task].family,) if TASKS[task].family else ()
            return ("all", TASKS[task].data, *family, task)
        return ("all", task.removeprefix("ablation-"), "ablation", task)

    def budget(self, task: str, scale: str | None = None) -> Budget:
        """The budget of a task, or of an ablation ("ablation-mnist"), at a scale."""
        merged: dict[str, Any] = {}
        for layer in self.layers(task):
            for part, value in self.scales[scale or self.scale].get(layer, {}).items():
                # A network's change replaces the one before it: networks have no keys in common.
                joined = isinstance(value, dict) and isinstance(merged.get(part), dict) and part != "network"
                merged[part] = {**merged[part], **value} if joined else value
        return Budget.model_validate(merged, strict=True)

    def seeds_of(self, task: str) -> tuple[int, ...]:
        """The training seeds of a task."""
        data = TASKS[task].data if task in TASKS else task.removeprefix("ablation-")
        return tuple(sorted({*self.seeds, *self.more_seeds.get(data, ())}))

    def rows_of(self, task: str) -> list[str]:
        """The rows of a task, in the order of params.yaml."""
        afforded = self.budget(task).rows
        rows = []
        for name in self.methods:
            row = self.row(name)
            fits = load_method(row.method).detects or TASKS[task].metric == "accuracy"
            if fits and (row.tasks is None or task in row.tasks) and (afforded is None or name in afforded):
                rows.append(name)
        return rows

    def calibrated(self, task: str, name: str) -> dict[str, Any] | None:
        """How copies of a row are calibrated on a task, or None where they are not."""
        c, grid = self.calibration, self.budget(task).evaluate
        if c.methods != "all" and name not in c.methods:
            return None
        of, details = grid.calibrated or grid, c.details
        asked = task in details.tasks and name in details.methods
        return {
            "images": c.images,
            "layers": c.layers,
            "sigma_step": of.sigma_step,
            "draws": of.draws,
            "details": {"images": details.images, "sigmas": details.sigmas} if asked else None,
        }

    def recipe_of(self, task: str) -> Recipe:
        """The recipe that every row is trained with on a task."""
        length = self.budget(task).train.model_dump(exclude_none=True)
        return Recipe(**{**self.recipe.model_dump(), **length})

    def specification(self, task: str, network: Mapping[str, Any] = {}) -> dict:
        """What `build` makes the task's network of, with the changes of a row."""
        return {**TASKS[task].specification, **self.budget(task).network, **network}

    def values(self, task: str, row: Row) -> dict[str, Any]:
        """The settings of a row's method on a task, checked: a value by data set is looked up.

        Raises:
            ValueError: The task's data set has no value, or a value is not allowed.
        """
        settings, data = {}, TASKS[task].data
        for key, value in row.settings.items():
            if isinstance(value, dict):
                if data not in value:
                    raise ValueError(f"{key}.{data}: missing; {task} needs it")
                value = value[data]
            settings[key] = value
        return load_method(row.method).Settings.model_validate(settings, strict=True).model_dump()

    def search_settings(self, task: str, *changes: Mapping[str, Any]) -> SearchSettings:
        """The rule and the budget of a search on a task: `search`, changed by the budget and then by each change."""
        rule = self.search.model_dump()
        rule["sigmas"] = rule["sigmas"].get(TASKS[task].data, (1.0,))
        for change in (self.budget(task).search, *changes):
            rule |= change
        inherited = rule.pop("inherited_epochs")
        if rule["weights"] == "inherit":
            rule["epochs"] = inherited
        elif rule["epochs"] is None:
            rule["epochs"] = self.budget(task).train.epochs
        return SearchSettings.model_validate(rule, strict=True)

    def ftt_budget(self, scale: str | None = None) -> FttBudget:
        """The budget of the chapter on fault-tolerant training at a scale."""
        return FttBudget.model_validate(self.scales[scale or self.scale].get(FTT), strict=True)

    def row_search(self, task: str, row: Row) -> SearchSettings | None:
        """The search of a row's hyperparameters on a task, or None where they are given."""
        own = load_method(row.method).search
        if own is None and row.search is None:
            return None
        return self.search_settings(task, own or {}, row.search or {})

    def study_names(self) -> list[str]:
        """The searches that the study runs."""
        if self.study == "none":
            return []
        every = [*self.studies.strategies, *self.studies.options]
        return every if self.study == "full" else [name for name in every if name in self.studies.small]

    def study_methods(self) -> set[str]:
        """The methods that the study trains, whose settings are those of the row of the same name."""
        groups = (self.studies.strategies, self.studies.options)
        return {*UNSEARCHED, "bayesft", *(of.method for group in groups for of in group.values())}

    def study_search(self, task: str, name: str) -> tuple[str, SearchSettings]:
        """One search of the study: the method, and the settings. An option is a change of the reference."""
        studies = self.studies
        if name in studies.strategies:
            of = studies.strategies[name]
            return of.method, self.search_settings(task, of.search)
        reference = studies.strategies[studies.reference]
        return reference.method, self.search_settings(task, reference.search, studies.options[name].search)


def read(path: Path = PARAMETERS) -> dict:
    """The content of a file of parameters, by the rules of YAML 1.2, which DVC uses too.

    Raises:
        ParameterError: The file is no YAML, or no mapping.
    """
    try:
        content = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ParameterError(f"{path} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: need a mapping of keys, got {content!r}")
    return content


def read_all(path: Path = PARAMETERS) -> dict:
    """The content of params.yaml, and under `scales` that of scales.yaml beside it.

    Raises:
        ParameterError: One of them can't be read, or params.yaml has budgets too.
    """
    content = read(path)
    if "scales" in content:
        raise ParameterError(f"{path}: scales: unknown key; budgets stand in {SCALES}")
    return {**content, "scales": read(Path(path).with_name(SCALES))}


def load(path: Path = PARAMETERS) -> Parameters:
    """Read and check the parameters.

    Raises:
        ParameterError: Something is wrong. The message has a line for everything that is.
    """
    content = read_all(path)
    try:
        parameters = Parameters.model_validate(_tuples(content), strict=True)
        wrong = wrong_layers(parameters) or contradictions(parameters) + wrong_mirror(parameters)
    except ValidationError as error:
        wrong = [explain(entry, Parameters) for entry in error.errors()]
    if wrong:
        raise ParameterError(f"{path}, {SCALES}:\n  " + "\n  ".join(dict.fromkeys(wrong)))
    return parameters


def load_part(key: str, path: Path = PARAMETERS) -> Any:
    """One checked entry of params.yaml, such as `sigma_max`, for a stage that reads nothing else of it.

    Raises:
        ParameterError: The file can't be read, or the entry is not allowed.
    """
    field = Parameters.model_fields[key]
    try:
        return TypeAdapter(field.rebuild_annotation()).validate_python(_tuples(read(path).get(key)), strict=True)
    except ValidationError as error:
        lines = [explain({**entry, "loc": (key, *entry["loc"])}, Parameters) for entry in error.errors()]
        raise ParameterError(f"{path}:\n  " + "\n  ".join(lines)) from None


def _tuples(value: Any) -> Any:
    """Tuples for the lists of a file. The schema is strict: it makes no number of a text, nor of yes or no."""
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
