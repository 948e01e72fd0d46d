"""This file finds what does not fit together in a study: names of what it does not hold, axes that are no tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from dwindle.errors import SettingError
from dwindle.settings import from_plain, nearest
from dwindle.studies.draw import space_problem
from dwindle.studies.layers import criterion_of
from dwindle.studies.plan import MAX_SEED
from dwindle.studies.shown import CRITERION, LAYER, METHOD, OF_LAYERS, Column, Figure, OnDevices, Quantity, Side, Table
from dwindle.studies.study import Built, Case, Preset, Search, Stage, Study


def problems_of(study: Study) -> Iterable[str]:
    """Yield what does not fit together; what comes after the first may only be its consequence."""
    if not study.name or study.name.startswith(".") or not set(study.name).isdisjoint("/\\\0\n"):
        yield f"name = {study.name!r} names folders and files; choose one of letters and digits"
    for what, names in (
        ("case", [case.name for case in study.cases]),
        ("stage", [stage.name for stage in study.stages]),
        ("table", [table.id for table in study.tables]),
        ("title of a table", [table.title for table in study.tables]),
        ("figure", [figure.id for figure in study.figures]),
        ("title of a figure", [figure.title for figure in study.figures]),
        ("claim", [claim.id for claim in study.claims]),
    ):
        yield from _twice(what, names)
    if not study.cases or not study.stages or not study.presets:
        yield "a study needs at least one case, one stage and one preset"
    for number, case in enumerate(study.cases):
        yield from _further_problems(case)
        yield from _start_problems(study, case, study.cases[:number])
        yield from _case_stage_problems(study, case)
    yield from _layers_problems(study)
    yield from () if study.search is None else _search_problems(study, study.search)
    for axis, options in study.axes.items():
        yield from _axis_problems(axis, options)
    yield from _layer_problems(study.as_published.by_data, study, "as_published.by_data")
    yield from _stage_problems(study)
    for name, preset in study.presets.items():
        yield from _preset_problems(study, preset, f"presets.{name}")
    yield from _shown_problems(study)
    yield from _advice_problems(study)


def _further_problems(case: Case) -> Iterable[str]:
    for name, plain in case.networks.items():
        where = f"case {case.name!r}: networks.{name}"
        if not isinstance(plain, Mapping):
            yield f'{where} must be a table such as {{ build = "file.py:function" }}, got {plain!r}'
            continue
        try:
            from_plain(Built, cast("Mapping[str, Any]", plain), where=where)
        except SettingError as error:
            yield str(error)


def _start_problems(study: Study, case: Case, earlier: Sequence[Case]) -> Iterable[str]:
    if case.start is None:
        return
    where, known = f"case {case.name!r} starts from", {other.name: other for other in earlier}
    stages = {stage.name: stage for stage in study.stages}
    if case.start.case not in known:
        yield f"{where} {case.start.case!r}, which no case before it is called; {nearest(case.start.case, known)}"
    elif case.start.stage not in stages or not known[case.start.case].has(case.start.stage):
        yield f"{where} stage {case.start.stage!r} of {case.start.case!r}; {nearest(case.start.stage, stages)}"
    elif axes := study.axes_of(stages[case.start.stage]):
        yield f"{where} stage {case.start.stage!r}, which has an outcome for each {' and '.join(axes)}"


def _case_stage_problems(study: Study, case: Case) -> Iterable[str]:
    stages = {stage.name: stage for stage in study.stages}
    for name in case.stages:
        if name not in stages:
            yield f"case {case.name!r} names the stage {name!r}; {nearest(name, stages)}"
            continue
        for needed in (stages[name].after, stages[name].against):
            if needed is not None and not case.has(needed):
                yield f"case {case.name!r} runs {name!r} without {needed!r}, which it needs; name both"


def _search_problems(study: Study, search: Search) -> Iterable[str]:
    cases, stages = {case.name: case for case in study.cases}, {stage.name: stage for stage in study.stages}
    if search.case not in cases:
        yield f"search names the case {search.case!r}; {nearest(search.case, cases)}"
    if search.stage not in stages:
        yield f"search names the stage {search.stage!r}; {nearest(search.stage, stages)}"
    elif stages[search.stage].after is not None or study.axes_of(stages[search.stage]):
        yield f"search trains {search.stage!r}, which does not start from random weights, or has axes; name another"
    if not search.space or search.n_trials < 1:
        yield f"search needs a space, and at least one trial, got {search.n_trials} trials"
    for name, values in search.space.items():
        if problem := space_problem(values):
            yield f"search.space.{name}: {problem}"


def _layers_problems(study: Study) -> Iterable[str]:
    for layer, name in study.layers.items():
        if not isinstance(name, str):
            yield f"layers.{layer} = {name!r}; give the name of a weight, or an empty text for the network's input"
    for criterion, plain in study.criteria.items():
        where = f"criteria.{criterion}"
        if not isinstance(plain, Mapping):
            yield f'{where} must be a table such as {{ type = "TwoNNChange" }}, got {plain!r}'
            continue
        try:
            criterion_of(cast("Mapping[str, Any]", plain), where=where)
        except SettingError as error:
            yield str(error)
    for stage in study.stages:
        if stage.judges_layers and not (study.layers and study.criteria):
            yield f"stage {stage.name!r} judges layers; say which in [layers], and by what in [criteria]"


def _shown_problems(study: Study) -> Iterable[str]:
    """Yield what is wrong with tables, figures and claims."""
    for table in study.tables:
        yield from _table_problems(study, table)
    for figure in study.figures:
        yield from _figure_problems(study, figure)
    for claim in study.claims:
        for side in (side for c in claim.conditions for side in (c.left, c.right) if side is not None):
            yield from _side_problems(study, side, f"claim {claim.id!r}")


def _advice_problems(study: Study) -> Iterable[str]:
    """Yield what is wrong with what advice and the table of devices are about."""
    stages = [stage.name for stage in study.stages]
    for name in () if study.advice is None else (study.advice.dense, *study.advice.stages):
        if name not in stages:
            yield f"advice names the stage {name!r}; {nearest(name, stages)}"
    if study.on_devices is not None:
        yield from _on_devices_problems(study, study.on_devices)


def _on_devices_problems(study: Study, asked: OnDevices) -> Iterable[str]:
    if asked.data not in study.data:
        yield f"on_devices names the data set {asked.data!r}; {nearest(asked.data, study.data)}"
    stages = {stage.name: study.axes_of(stage) for stage in study.stages}
    for name in asked.stages:
        if name not in stages:
            yield f"on_devices names the stage {name!r}; {nearest(name, stages)}"
        elif stages[name]:
            yield f"on_devices names the stage {name!r}, which has a file for each of its {', '.join(stages[name])}"


def _axis_problems(axis: str, options: Any) -> Iterable[str]:
    if axis in {"network", "data", LAYER, CRITERION}:
        yield f"axes.{axis}: that is what cases or layers are told apart by; call the axis otherwise"
    if not isinstance(options, Mapping) or not options:
        yield f"axes.{axis} must be a table: a name for each value, and what it stands for"
        return
    for name, values in cast("Mapping[str, Any]", options).items():
        if not isinstance(values, Mapping):
            yield f"axes.{axis}.{name} must be a table such as {{ sparsity = 0.9 }}, got {values!r}"


def _layer_problems(by_data: Mapping[str, Any], study: Study, where: str) -> Iterable[str]:
    known = [*study.data, *(case.name for case in study.cases)]
    for data, values in by_data.items():
        if data not in known:
            yield f"{where} names {data!r}, which is no data set or case; {nearest(data, known)}"
        elif not isinstance(values, Mapping):
            yield f"{where}.{data} must be a table of values, got {values!r}"


def _twice(what: str, names: list[str]) -> Iterable[str]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{what} {name!r} is there twice; rename one"


def _stage_problems(study: Study) -> Iterable[str]:
    before: dict[str, Stage] = {}
    for stage in study.stages:
        if stage.after is not None and stage.after not in before:
            yield f"stage {stage.name!r} comes after {stage.after!r}, which no stage before it is called"
            return
        for axis in stage.over:
            if axis not in study.axes:
                yield f"stage {stage.name!r} goes over {axis!r}; {nearest(axis, study.axes)}"
        before[stage.name] = stage
        if stage.early is not None and stage.early not in _ancestors(stage, before):
            known = nearest(stage.early, _ancestors(stage, before))
            yield f"stage {stage.name!r} rewinds to {stage.early!r}, which it does not come from; {known}"
    yield from (problem for stage in study.stages for problem in _against_problems(study, stage, before))


def _ancestors(stage: Stage, before: Mapping[str, Stage]) -> list[str]:
    """Return the names of the stages that `stage` comes from."""
    return [] if stage.after is None else [stage.after, *_ancestors(before[stage.after], before)]


def _against_problems(study: Study, stage: Stage, stages: Mapping[str, Stage]) -> Iterable[str]:
    if stage.against is None:
        return
    where = f"stage {stage.name!r} is taken against {stage.against!r}"
    if stage.against not in stages:
        yield f"{where}; {nearest(stage.against, stages)}"
    elif extra := set(study.axes_of(stages[stage.against])) - set(study.axes_of(stage)):
        yield f"{where}, which differs along {', '.join(sorted(extra))}, too"


def _preset_problems(study: Study, preset: Preset, where: str) -> Iterable[str]:
    for data in preset.data:
        if data not in study.data:
            yield f"{where} names the data set {data!r}; {nearest(data, study.data)}"
    yield from _layer_problems(preset.by_data, study, f"{where}.by_data")
    for seed in preset.seeds:
        if not 0 <= seed <= MAX_SEED:
            yield f"{where} has the seed {seed}; give numbers from 0 to {MAX_SEED}"
    for axis, chosen in preset.axes.items():
        if axis not in study.axes:
            yield f"{where} names the axis {axis!r}; {nearest(axis, study.axes)}"
        elif not isinstance(chosen, list) or not chosen:
            yield f"{where}.axes.{axis} must be a list of at least one value"
        else:
            yield from (
                f"{where}.axes.{axis} names {value!r}; {nearest(str(value), study.axes[axis])}"
                for value in cast("list[Any]", chosen)
                if not isinstance(value, str) or value not in study.axes[axis]
            )


def _table_problems(study: Study, table: Table) -> Iterable[str]:
    known = ["network", "data", *([METHOD] if table.stages else []), *study.known_axes]
    for key in (*table.rows, *table.mean_over):
        if key not in known:
            yield f"table {table.id!r} names {key!r}; {nearest(key, known)}"
    yield from _method_problems(study, table)
    yield from _where_problems(study, table.where, f"table {table.id!r}")
    for column in table.columns:
        yield from _column_problems(study, table, column)
    for number, row in enumerate(table.published, start=1):
        if missing := [key for key in table.rows if key not in row and key not in _left_out(table)]:
            yield f"table {table.id!r}: published row {number} does not say its {', '.join(missing)}"


def _left_out(table: Table) -> tuple[str, ...]:
    """Return what published rows need not say."""
    return ("network", "data") if table.is_published_for_all else ()


def _method_problems(study: Study, table: Table) -> Iterable[str]:
    """Yield what is wrong with a table whose rows are stages."""
    stages = {stage.name: stage for stage in study.stages}
    for name in table.stages:
        if name not in stages:
            yield f"table {table.id!r} names the stage {name!r}; {nearest(name, stages)}"
            return
    if not table.stages:
        return
    if table.rows[-1:] != (METHOD,):
        yield f"table {table.id!r}: stages are rows, and {METHOD!r} has to be the last of what rows are told apart by"
    if named := [column.title for column in table.columns if column.stage]:
        yield f"table {table.id!r}: stages are rows, so the column {named[0]!r} names none"
    known = {words for name in table.stages for words in _methods_of(study, stages[name])}
    for method in (str(row.get(METHOD)) for row in table.published):
        if method not in known:
            yield f"table {table.id!r}: a published row is about the method {method!r}; {nearest(method, known)}"


def _methods_of(study: Study, stage: Stage) -> Iterable[str]:
    """Yield what rows about a stage are called."""
    axes = study.axes_of(stage)
    for place in itertools.product(*(study.axes[axis] for axis in axes)):
        yield stage.words_at(dict(zip(axes, place, strict=True)))


def _column_problems(study: Study, table: Table, column: Column) -> Iterable[str]:
    where = f"table {table.id!r}, column {column.title!r}"
    if not table.stages:
        yield from _quantity_problems(study, column.stage, column.quantity, where=where)
    yield from _where_problems(study, column.at, where)
    yield from _open_problems(study, table, column)
    if column.published is not None and not any(column.published in row for row in table.published):
        yield f"{where}: no published row has a figure called {column.published!r}"


def _open_problems(study: Study, table: Table, column: Column) -> Iterable[str]:
    """Yield what leaves open which outcome a column shows."""
    stage = next((stage for stage in study.stages if stage.name == column.stage), None)
    said = {*table.rows, *table.where, *column.at, *table.mean_over}
    layers = OF_LAYERS.get(column.quantity, ())
    axes = layers if stage is None else (*study.axes_of(stage), *layers)  # rows that are stages say the place, too
    for key in ("network", "data", *axes) if stage is not None or table.stages else ():
        if key not in said:
            where = f"table {table.id!r}, column {column.title!r}"
            about = f"stage {column.stage!r}" if column.stage else "every stage"
            yield f"{where}: {about} has a figure for each {key}; name it in rows, where or at, or add it to mean_over"


def _figure_problems(study: Study, figure: Figure) -> Iterable[str]:
    stages = {stage.name: stage for stage in study.stages}
    for name in figure.stages:
        if name not in stages:
            yield f"figure {figure.id!r} names the stage {name!r}; {nearest(name, stages)}"
        elif figure.axis is not None and figure.axis not in study.axes_for(stages[name], figure.quantity):
            yield f"figure {figure.id!r} goes along {figure.axis!r}, of which stage {name!r} has no values"
    yield from _where_problems(study, figure.where, f"figure {figure.id!r}")


def _side_problems(study: Study, side: Side, where: str) -> Iterable[str]:
    yield from _quantity_problems(study, side.stage, side.quantity, where=where)
    yield from _where_problems(study, side.where, where)


def _quantity_problems(study: Study, name: str, quantity: Quantity, *, where: str) -> Iterable[str]:
    stages = {stage.name: stage for stage in study.stages}
    if name not in stages:
        yield f"{where} names the stage {name!r}; {nearest(name, stages)}"
    elif quantity == "accuracy_drop" and stages[name].against is None:
        yield f"{where}: stage {name!r} says no `against` to take a drop from"


def _where_problems(study: Study, given: Mapping[str, Any], where: str) -> Iterable[str]:
    """Yield what `given`, values by network, data or axis, names without there being any."""
    options = {"network": study.networks, "data": study.data, **study.known_axes}
    for key, value in given.items():
        if key not in options:
            yield f"{where} names {key!r}; {nearest(key, options)}"
            continue
        for one in cast("list[Any]", value) if isinstance(value, list) else [value]:
            if not isinstance(one, str) or one not in options[key]:
                yield f"{where} names the {key} {one!r}; {nearest(str(one), options[key])}"
