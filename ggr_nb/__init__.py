__version__ = "0.1.0"

import signal, sys
from importlib import import_module
from pathlib import Path

# Ctrl-C while a command is still being loaded ends it without a traceback; its door takes over.
if (Path(sys.argv[0] if sys.argv else '').name.startswith('ggr_')
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

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
