"""The paper: its numbers, its grid of runs, the comparison."""
from .. import lazily

_HOME = {'PUBLISHED': 'published', 'grid': 'published', 'table': 'published'}
__all__ = list(_HOME)
__getattr__ = lazily(__name__, _HOME)
