"""Commands that draw pictures: first layers of runs (`features`), augmented images (`views`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import app, screen
from bitwright.cli.making import Data, Seed


@app.command()
def features(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs on grey or RGB images.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write, PNG.")] = Path("features.png"),
) -> None:
    """Draw the first layers of runs side by side: 64 units each, a tile of weights per unit."""
    from bitwright.report.features import draw_features

    draw_features(runs, out)
    _written(out)


@app.command()
def views(
    dataset: Annotated[str, typer.Argument(metavar="DATA", help="A data set (see `list data`).")],
    settings: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="As in a recipe's augment; may be repeated.")
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write, PNG.")] = Path("views.png"),
    seed: Seed = None,
    data: Data = None,
) -> None:
    """Draw what augmentation makes of training images: a row for each kind of view and one for all together.

    Without --set every kind is shown that these images can have.
    """
    from bitwright.data import load_dataset
    from bitwright.recipe import override
    from bitwright.report.views import draw_views, shown_by_default
    from bitwright.training.settings import Augment
    from bitwright.validate import checked

    images = load_dataset(dataset, data).train.images
    raw = override({"steps": [{"augment": {}}]}, [f"augment.{setting}" for setting in settings])
    chosen = checked(Augment, raw["steps"][0]["augment"], "augment") if settings else shown_by_default(images.shape)
    draw_views(images, chosen, out, seed or 0)
    _written(out)


def _written(path: Path) -> None:
    screen().print(f"written    {path}", highlight=False, soft_wrap=True)
