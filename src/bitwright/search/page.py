"""The page of a search: one HTML file that opens without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from bitwright.report.lines import Chart

_WORDS = {"Objective Value": "validation error, %", "Intermediate Value": "validation error, %", "Step": "epoch"}
"""optuna's words and ours."""
_SMALL, _LARGE = (232, 113, 10), (152, 162, 174)
"""Colours of lines with small and with large errors, which show on light pages and on dark ones."""


def render(name: str, values: Mapping[str, Any], error: float, studies: list[optuna.Study]) -> str:
    """The page as text: the best setting, every trial, and the usual plots per stage."""
    from bitwright.report import fill

    stages: list[dict[str, Any]] = []
    charts: list[Chart] = []
    for study in studies:
        drawn = list(_charts(study, len(charts)))
        charts += [chart for _, _, chart in drawn]
        places = [{"title": title, "note": note, "id": chart["id"]} for title, note, chart in drawn]
        stages.append({"name": study.study_name, "trials": _trials(study), "charts": places})
    facts = {"name": name, "error": error, "stages": stages, "paths": list(values), "settings": _settings(values)}
    return fill("search.html.jinja", facts, charts)


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


def _charts(study: optuna.Study, before: int) -> Iterator[tuple[str, str, Chart]]:
    """Title, a sentence and the chart, for every one that this study can have; `before` others have ids."""
    from optuna import visualization as draw
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [p for p in study.trials[0].params if len({str(t.params[p]) for t in complete if p in t.params}) > 1]
    if not complete:
        return
    found = [
        ("Best error so far", "each trial, and the least error up to it", draw.plot_optimization_history(study)),
        ("Curves", "validation error over the epochs of each trial", draw.plot_intermediate_values(study)),
    ]
    if varied:
        whole = _readable(draw.plot_parallel_coordinate(study, params=varied))
        found.append(("One value at a time", "error against each value", draw.plot_slice(study, params=varied)))
        found.append(("All values together", "a line per trial, orange where the error is small", whole))
    if len(varied) > 1:
        pairs = draw.plot_contour(study, params=varied)
        found.append(("Pairs of values", "error over two values at a time", pairs))
    if varied and len(complete) > 3 and len({t.value for t in complete}) > 1:
        share = draw.plot_param_importances(study, params=varied)
        found.append(("What matters", "share of the variance of the error that each value explains", share))
    for number, (title, note, figure) in enumerate(found, before):
        yield title, note, _chart(f"chart-{number}", figure)


def _readable(figure: Any) -> Any:
    """The figure in colours that show on any page instead of optuna's blues, the lighter the larger the error."""
    from plotly.io import from_json

    def mixed(blue: re.Match[str]) -> str:
        share = float(blue[1]) / 255
        return f"rgb({', '.join(f'{a + share * (b - a):.0f}' for a, b in zip(_SMALL, _LARGE, strict=True))})"

    return from_json(re.sub(r"rgb\(([\d.]+)[^)]*\)", mixed, figure.to_json()))


def _chart(name: str, figure: Any) -> Chart:
    """optuna's figure in our words, and without its title and colours of text and paper."""
    figure.update_layout(title=None, margin={"t": 24}, template=None, plot_bgcolor=None)
    said = figure.to_json().replace('"#555"', '"muted"')
    for theirs, ours in _WORDS.items():
        said = said.replace(f'"{theirs}"', f'"{ours}"')
    plain = json.loads(said)
    return {"id": name, "data": plain["data"], "layout": {"height": 450, **plain["layout"]}}
