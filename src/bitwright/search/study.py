"""The study: which settings are tried, in what order, and what came out. optuna keeps it in a database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bitwright.errors import BitwrightError, unknown
from bitwright.files import write_atomic
from bitwright.folders import default_folder, identity
from bitwright.recipe import Recipe, load_recipe
from bitwright.run import Run, on_threads
from bitwright.search.space import Space, settings
from bitwright.search.trial import parts_of, run_trial

if TYPE_CHECKING:
    import optuna

    from bitwright.data.dataset import Dataset

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["none", "median", "halving"]

_HEARTBEAT, _GRACE = 60, 180
"""Seconds: how often a process says that it still works at its trial, and when the others give the trial up."""


@dataclass(frozen=True)
class SearchSettings:
    """How a space is searched.

    trials    settings to try in each stage; a grid has no more than its points
    sampler   "tpe" (tree-structured Parzen estimator, Bergstra et al. 2011), "random" or "grid"
    stages    coarse to fine: each stage after the first spans a quarter of every range, around the best trial so far
    fraction  share of the training images
    folds     0: the validation part judges; k >= 2: k-fold cross-validation, k trainings a trial
    pruner    "none"; "median": a trial ends where it is worse than the median of the others after as many epochs;
              "halving": successive halving (Li et al. 2018)
    seed      of the sampler; trainings have the recipe's seed

    Raises BitwrightError for other values.
    """

    trials: int = 20
    sampler: Sampler = "tpe"
    stages: int = 1
    fraction: float = 1.0
    folds: int = 0
    pruner: Pruner = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("sampler", self.sampler, Sampler), ("pruner", self.pruner, Pruner)):
            if value not in get_args(known):
                raise unknown(name, value, get_args(known))
        if self.trials < 1 or self.stages < 1:
            raise BitwrightError(f"{self.trials} trials in {self.stages} stages; expected at least one of each")
        if not 0 < self.fraction <= 1:
            raise BitwrightError(f"fraction is {self.fraction}; expected above 0 and at most 1")
        if self.folds < 0 or self.folds == 1:
            raise BitwrightError(f"folds is {self.folds}; expected 0, or at least 2")


@dataclass(frozen=True)
class SearchResult:
    """What was found: the best recipe with its validation error in percent, and the folder with best.yaml and page."""

    folder: Path
    best: Recipe
    error: float
    values: dict[str, Any]
    trials: int


def search(
    recipe: str | Path | Recipe,
    space: Space,
    how: SearchSettings,
    folder: str | Path | None = None,
    *,
    storage: str | None = None,
    root: str | Path | None = None,
) -> SearchResult:
    """Try settings of `recipe` until `how.trials` of each stage are finished; the test part is never looked at.

    `folder` (default runs/NAME-search) takes the database search.sqlite, best.yaml and search.html; called again, an
    interrupted search goes on. `storage` names another database, an URL of SQLAlchemy: processes on several machines
    that are given the same one share the trials, and each needs its own folder.

    Raises BitwrightError for a path that the recipe doesn't have, values that it refuses, and a database that holds
    another search.
    """
    import optuna

    start = load_recipe(recipe)
    space.check(start)
    place = Path(folder) if folder is not None else default_folder(start).with_name(f"{start.name}-search")
    place.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = parts_of(Run(start, place, root=root).data, how.fraction, how.folds)
    studies: list[optuna.Study] = []
    with _opened(storage or f"sqlite:///{(place / 'search.sqlite').resolve()}") as database:
        for stage in range(how.stages):
            name = f"{start.name} stage {stage + 1}"
            study = _study(name, database, space, how, _facts(start, space, how))
            _try(study, start, space, how, parts, place / "trials")
            studies.append(study)
            space = space.around(_values(_best(studies)))
        return _conclude(start, studies, place)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[optuna.storages.BaseStorage]:
    import optuna
    import sqlalchemy.exc

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat
            database = optuna.storages.RDBStorage(url, heartbeat_interval=_HEARTBEAT, grace_period=_GRACE)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        raise BitwrightError(
            f"cannot open the storage {url}: {str(error).splitlines()[0]}; give an URL such as sqlite:///search.sqlite "
            "or postgresql://user@host/name, and install the driver it needs",
            kind="storage",
        ) from None
    try:
        yield database
    finally:
        database.remove_session()


def _facts(recipe: Recipe, space: Space, how: SearchSettings) -> str:
    """What two processes must agree on to share a study."""
    plan = {k: v for k, v in dataclasses.asdict(how).items() if k not in ("trials", "stages")}
    return json.dumps({"recipe": identity(recipe), "space": space.to_dict(), "how": plan}, sort_keys=True)


def _study(
    name: str, database: optuna.storages.BaseStorage, space: Space, how: SearchSettings, facts: str
) -> optuna.Study:
    import optuna

    samplers: dict[str, Any] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=how.seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=how.seed),
        "grid": lambda: optuna.samplers.GridSampler(space.grid(), seed=how.seed),
    }
    pruners: dict[str, Any] = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
    }
    study = optuna.create_study(
        study_name=name,
        storage=database,
        sampler=samplers[how.sampler](),
        pruner=pruners[how.pruner](),
        load_if_exists=True,
    )
    if study.user_attrs.get("facts", facts) != facts:
        raise BitwrightError(
            f"the storage holds another search under {name!r}: its recipe, space or settings differ; take another "
            "folder with --out, or another storage",
            kind="another-search",
        )
    study.set_user_attr("facts", facts)
    return study


def _try(
    study: optuna.Study, recipe: Recipe, space: Space, how: SearchSettings, parts: list[Dataset], place: Path
) -> None:
    """Run trials until as many are finished as are wanted."""
    import optuna

    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    finished = len(study.get_trials(deepcopy=False, states=done))
    if finished >= how.trials:
        return
    _again(study)

    def objective(trial: optuna.Trial) -> float:
        tried = load_recipe(recipe, settings(space.suggest(trial)))

        def report(epochs: int, error: float) -> None:
            trial.report(error, epochs)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            return run_trial(tried, parts, place, report)
        except BitwrightError as error:
            if error.kind != "diverged":
                raise
            trial.set_user_attr("diverged", str(error))
            raise optuna.TrialPruned from error

    with on_threads(recipe.threads):
        study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(how.trials, states=done)])


def _again(study: optuna.Study) -> None:
    """Trials that a kill or Ctrl-C ended are tried once more: their trainings go on where they were."""
    import optuna

    known = set(study.user_attrs.get("tried again", []))
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.FAIL,)):
        if trial.number not in known and trial.params:
            study.enqueue_trial(trial.params)
            known.add(trial.number)
    study.set_user_attr("tried again", sorted(known))


def _best(studies: list[optuna.Study]) -> optuna.trial.FrozenTrial:
    import optuna

    state = (optuna.trial.TrialState.COMPLETE,)
    complete = [trial for study in studies for trial in study.get_trials(deepcopy=False, states=state)]
    if not complete:
        raise BitwrightError(
            "no trial came to its end: all diverged or were pruned; lower the learning rates that may be tried, or "
            "take pruner none",
            kind="no-trial",
        )
    return min(complete, key=lambda trial: trial.value if trial.value is not None else float("inf"))


def _values(trial: optuna.trial.FrozenTrial) -> Mapping[str, Any]:
    return {path: json.loads(v) if isinstance(v, str) else v for path, v in trial.params.items()}


def _conclude(recipe: Recipe, studies: list[optuna.Study], place: Path) -> SearchResult:
    from bitwright.search.page import render

    trial = _best(studies)
    values = dict(_values(trial))
    best = load_recipe(recipe, settings(values))
    write_atomic(place / "best.yaml", best.to_yaml())
    error = float(trial.value or 0.0)
    count = sum(len(study.trials) for study in studies)
    write_atomic(place / "search.html", render(best.name, values, error, studies))
    return SearchResult(place, best, error, values, count)
