__version__ = "0.1.0"

from importlib import import_module

from .masks import sparse_parameters
from .methods import METHODS, Method
from .sparsify import Sparsifier
from .beyond import connect   # its three methods join METHODS

del connect

__all__ = ['METHODS', 'Method', 'Sparsifier', 'fit', 'sparse_parameters']


def lazily(package, homes):
    "A `__getattr__`: what needs torchvision, matplotlib or scikit-learn is imported when asked for."
    def get(name):
        if name not in homes: raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'.{homes[name]}', package), name)
    return get


__getattr__ = lazily(__name__, {'fit': 'train.training'})
