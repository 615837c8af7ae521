"""A device that is not there: tensors that say they live on another device, with real numbers, on any machine.

    with pretended() as log:
        model.to(DEVICE); loss(model(x.to(DEVICE)), y.to(DEVICE)).backward()
    log.waits                       # {'upload at ggr_nb/…py:12': 3, …}: where the host waited for the device

What holds on a real card holds here: an operation on tensors of two devices fails (but for CPU scalars, and CPU indices
into a device tensor), a CPU generator does not draw on the device, there is no `.numpy()`, `model.to` keeps the identity
of parameters. Every moment at which a host would have to wait for a card is written down: a value read (`.item()`,
`bool`, `.tolist()`, `.cpu()`), a result whose size depends on values (`nonzero`, a boolean index, `unique`, `bincount`),
and a copy to the device that does not say `non_blocking`.

The device is called 'meta', the only one beside the CPU whose guard is in every build of PyTorch, so that backward works.
Not pretended: autocast (it does nothing here), fused and compiled kernels, several streams.
"""
import sys, warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device('meta')
ROOT = Path(__file__).resolve().parent.parent


class Distant(torch.Tensor):
    "A tensor on the other device; `.here` is the same on the CPU."
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, x, requires_grad=False):
        form = dict(strides=x.stride(), storage_offset=x.storage_offset(), dtype=x.dtype, layout=x.layout)
        self = torch.Tensor._make_wrapper_subclass(cls, x.size(), device=DEVICE, requires_grad=requires_grad, **form)
        self.here = x
        return self

    def __repr__(self): return f'Distant({self.here})'
    def __tensor_flatten__(self): return ['here'], None            # makes `model.to` keep the parameters' identity
    @staticmethod
    def __tensor_unflatten__(parts, *_): return Distant(parts['here'])
    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = Distant(self.here.detach().clone())
            if isinstance(self, torch.nn.Parameter): copy = torch.nn.Parameter(copy)
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]
    def __reduce_ex__(self, protocol): return self.here.detach().__reduce_ex__(protocol)   # as `map_location='cpu'` reads it
    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None): return run(op, args, kwargs or {})


class Log:
    "Where, and how often, the host waited for the device."
    def __init__(self): self.waits = Counter()

    def note(self, what):
        frame = sys._getframe(1)
        while frame and not _ours(frame.f_code.co_filename): frame = frame.f_back
        where = f'{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}' if frame else 'elsewhere'
        self.waits[f'{what} at {where}'] += 1

    def total(self): return self.waits.total()
    def clear(self): self.waits.clear()


def _ours(file): return Path(file).is_relative_to(ROOT) and '/.venv/' not in file and Path(file) != Path(__file__).resolve()


_log = Log()                       # backward has its own thread, so this is global

READS = {'_local_scalar_dense', 'nonzero', 'masked_select', '_unique', '_unique2', 'unique_dim', 'unique_consecutive',
         'bincount', 'equal', 'repeat_interleave', 'argwhere'}
MOVES = {'_to_copy', 'copy_', '_foreach_copy_'}
INDEXED = {'index', 'index_put', 'index_put_', '_index_put_impl_'}


def distant(device): return device is not None and torch.device(device).type == DEVICE.type
def _near(t): return t.here if isinstance(t, Distant) else t


def _refuse(op, name, args, kwargs, tensors):
    "The errors of a real card."
    if name.startswith('_foreach_'):                               # pair by pair
        lists = [a for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], torch.Tensor)]
        for pair in zip(*lists):
            if name not in MOVES: _refuse(op, name.removeprefix('_foreach_'), pair, {}, pair)
        return
    there = [t for t in tensors if isinstance(t, Distant)]
    here = [t for t in tensors if not isinstance(t, Distant) and t.ndim]
    goes = there or distant(kwargs.get('device'))
    drawn = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Generator)]
    if goes and any(g.device.type == 'cpu' for g in drawn):
        raise RuntimeError(f"{op}: expected a generator of the device, found one of the CPU")
    if not there or name in MOVES: return
    if name in INDEXED and isinstance(args[0], Distant):           # the indices may be on the CPU, the values not
        here = [t for t in args[2:3] if isinstance(t, torch.Tensor) and not isinstance(t, Distant) and t.ndim]
    written = name.endswith('_') and isinstance(args[0], torch.Tensor) and not isinstance(args[0], Distant)
    if here or written or name in ('cat', 'stack') and len(there) < len(tensors):
        raise RuntimeError(f'{op}: expected all tensors to be on the same device, found at least two, {DEVICE} and cpu')


def _count(name, args, kwargs, tensors):
    "Note where a card would make the host wait."
    there = [isinstance(t, Distant) for t in tensors]
    if name in ('_to_copy', 'copy_'):
        source = args[1] if name == 'copy_' else args[0]
        target = args[0].device if name == 'copy_' else kwargs.get('device') or source.device
        blocking = not (kwargs.get('non_blocking') or name == 'copy_' and len(args) > 2 and args[2])
        if isinstance(source, Distant) and not distant(target): _log.note('download')
        if not isinstance(source, Distant) and distant(target) and blocking: _log.note('upload')
    elif name in READS and any(there): _log.note(name.strip('_'))
    elif name in INDEXED and isinstance(args[0], Distant):
        for i in args[1]:
            if i is None: continue
            if i.dtype in (torch.bool, torch.uint8): _log.note('boolean index')
            if not isinstance(i, Distant): _log.note('upload')
        if name != 'index' and not isinstance(args[2], Distant): _log.note('upload')


def run(op, args, kwargs):
    "An operation, wherever its tensors say they are."
    name, tensors = op.__name__.split('.')[0], [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    _refuse(op, name, args, kwargs, tensors); _count(name, args, kwargs, tensors)
    near = {k: 'cpu' if k == 'device' and distant(v) else tree_map(_near, v) for k, v in kwargs.items()}
    out = op(*tree_map(_near, args), **near)
    if name.startswith('_foreach_') and isinstance(out, (list, tuple)):
        return [Distant(t) if isinstance(like, Distant) else t for t, like in zip(out, args[0])]
    goes = (distant(kwargs['device']) if kwargs.get('device') is not None else
            isinstance(args[0], Distant) if name == 'copy_' else any(isinstance(t, Distant) for t in tensors))
    known = {id(t.here): t for t in tensors if isinstance(t, Distant)}     # an operation in place returns its argument
    wrap = lambda t: known.get(id(t)) if id(t) in known else Distant(t) if goes else t
    return tree_map(lambda t: wrap(t) if isinstance(t, torch.Tensor) and not isinstance(t, Distant) else t, out)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None): return run(op, args, kwargs or {})


class _Functions(TorchFunctionMode):
    "What does not pass through the dispatcher."
    def __torch_function__(self, f, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(f, '__name__', '')
        if f in (torch.tensor, torch.as_tensor, torch.asarray) and distant(kwargs.get('device')):
            if isinstance(args[0], Distant): return f(*args, **kwargs)
            kwargs.pop('device'); _log.note('upload')
            return Distant(f(*args, **kwargs))
        if name == 'unravel_index' and isinstance(args[0], Distant): return self.unravelled(*args, **kwargs)
        if f is torch.Tensor.tolist and isinstance(args[0], Distant): _log.note('download'); return args[0].here.tolist()
        if f is torch.Tensor.numpy and isinstance(args[0], Distant): raise TypeError(f"can't convert {DEVICE} tensor to numpy")
        if f == torch.Tensor.data.__set__: return _set_data(*args)
        return f(*args, **kwargs)

    @staticmethod
    def unravelled(indices, shape):
        "PyTorch copies two small tensors to the device here."
        _log.note('upload'); _log.note('upload')
        return tuple(Distant(i) for i in torch.unravel_index(indices.here, shape))


def _set_data(tensor, value):
    "`tensor.data = value`: the same object with other contents."
    if isinstance(tensor, Distant) and isinstance(value, Distant):
        torch.Tensor.data.__set__(tensor, value); tensor.here = value.here
    elif isinstance(tensor, Distant) or isinstance(value, Distant):
        fresh = torch.nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else value
        torch.utils.swap_tensors(tensor, fresh)
    else: torch.Tensor.data.__set__(tensor, value)


class _Autocast(torch.autocast):
    "Nothing on the pretended device."
    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        if distant(device_type): device_type, dtype, enabled = 'cpu', None, False
        super().__init__(device_type, dtype, enabled, cache_enabled)


@contextmanager
def pretended():
    "In here `.to(DEVICE)` works; yields the log of waits."
    global _log
    before, _log, swap = _log, Log(), torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)    # `model.to` keeps the identity of parameters
    try:
        with warnings.catch_warnings(), mock.patch.object(torch, 'autocast', _Autocast), _Functions(), _Operations():
            warnings.filterwarnings('ignore', 'for .*copying from a non-meta parameter')
            yield _log
    finally:
        _log = before
        torch.__future__.set_swap_module_params_on_conversion(swap)
