__version__ = "0.1.0"

from .masks import sparse_parameters
from .methods import METHODS, Method
from .sparsify import Sparsifier
from .beyond import connect   # its three methods join METHODS

del connect

__all__ = ['METHODS', 'Method', 'Sparsifier', 'fit', 'sparse_parameters']


def __getattr__(name):
    "`fit` needs torchvision and is imported when somebody asks for it."
    if name != 'fit': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .train.training import fit
    return fit
