"""Hyper-parameter search: a recipe, what may vary in it, and a study of trials that are judged by validation error.

`space` says what may vary, `trial` trains one setting, `study` keeps the books (optuna), `page` draws them.
"""

from bitwright.search.space import Space
from bitwright.search.study import SearchResult, SearchSettings, search

__all__ = ["SearchResult", "SearchSettings", "Space", "search"]
