"""The page of a search: one HTML file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

_WORDS = {"Objective Value": "validation error, %", "Intermediate Value": "validation error, %", "Step": "epoch"}
"""optuna's words and ours."""

Drawn = dict[str, str]
"""One chart: {"title", "note", "json"}, plotly's figure as JSON."""


def render(name: str, values: Mapping[str, Any], error: float, studies: list[optuna.Study]) -> str:
    """The page as text, plotly's JavaScript inside: the best setting, every trial, and the usual plots per stage."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bitwright.search", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    stages = [{"name": study.study_name, "trials": _trials(study), "charts": list(_charts(study))} for study in studies]
    facts = {"name": name, "error": error, "stages": stages, "paths": list(values), "settings": _settings(values)}
    return environment.get_template("page.html.jinja").render(**facts, plotly=get_plotlyjs())


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"--set {path}={json.dumps(value)}" for path, value in values.items())


def _trials(study: optuna.Study) -> list[dict[str, Any]]:
    """Every trial, the best first; those without a result last."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        seconds = trial.duration.total_seconds() if trial.duration else None
        state = "diverged" if "diverged" in trial.user_attrs else trial.state.name.lower()
        rows.append(
            {
                "number": trial.number,
                "error": trial.value,
                "state": state,
                "epochs": len(trial.intermediate_values),
                "seconds": seconds,
                "values": {k: v if isinstance(v, str) else f"{v:.4g}" for k, v in trial.params.items()},
            }
        )
    return sorted(rows, key=lambda row: (row["error"] is None, row["error"] or 0.0, row["number"]))


def _charts(study: optuna.Study) -> Iterator[Drawn]:
    from optuna import visualization as draw
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [p for p in study.trials[0].params if len({str(t.params[p]) for t in complete if p in t.params}) > 1]
    if not complete:
        return
    yield _chart("Best error so far", "each trial, and the least error up to it", draw.plot_optimization_history(study))
    yield _chart("Curves", "validation error over the epochs of each trial", draw.plot_intermediate_values(study))
    if varied:
        yield _chart("One value at a time", "error against each value", draw.plot_slice(study, params=varied))
        whole = draw.plot_parallel_coordinate(study, params=varied)
        yield _chart("All values together", "a line per trial, dark where the error is small", whole)
    if len(varied) > 1:
        yield _chart("Pairs of values", "error over two values at a time", draw.plot_contour(study, params=varied))
    if varied and len(complete) > 3 and len({t.value for t in complete}) > 1:
        share = draw.plot_param_importances(study, params=varied)
        yield _chart("What matters", "share of the variance of the error that each value explains", share)


def _chart(title: str, note: str, figure: Any) -> Drawn:
    """In our words and without the title of optuna's figure."""
    figure.update_layout(title=None, margin={"t": 24})
    said = figure.to_json()
    for theirs, ours in _WORDS.items():
        said = said.replace(f'"{theirs}"', f'"{ours}"')
    return {"title": title, "note": note, "json": said.replace("</", "<\\/")}
