"""Comparisons: several variants of a recipe, each a run of its own, in one table and one page.

`plan` says what is compared, `work` runs what has not run yet and gathers the figures, `table` writes them in rows,
`page` draws them.
"""

from bitwright.compare.plan import Comparison, list_comparisons, plan
from bitwright.compare.work import compare

__all__ = ["Comparison", "compare", "list_comparisons", "plan"]
