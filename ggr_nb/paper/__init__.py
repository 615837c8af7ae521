"""The paper: its numbers, its grid of runs, the comparison."""
from importlib import import_module

_HOME = {'PUBLISHED': 'published', 'grid': 'published', 'table': 'published'}
__all__ = list(_HOME)


def __getattr__(name):
    "What needs torchvision, matplotlib or scikit-learn is imported when somebody asks for it."
    if name not in _HOME: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_HOME[name]}', __name__), name)
