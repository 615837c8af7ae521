"""Numbers given to the public functions: Python's and NumPy's are taken and kept as Python's own, everything else is refused in a line.

The parameters are read from the signatures: a new one that says `int` or `float` is tested with the others.
"""
import inspect, io, math, warnings
from dataclasses import asdict

import numpy as np, pytest, torch
from torch import nn

from ggr_nb.grow import hybrid, sampled
from ggr_nb.masks import generator
from ggr_nb.paper.evidence import verdict
from ggr_nb.paper.sweep import Job
from ggr_nb.sparsify import Sparsifier
from ggr_nb.train.data import digits
from ggr_nb.train.runs import Recipe
from ggr_nb.train.training import fit

DIGITS, ARMS = digits(), dict(a={0: 90., 1: 91.}, b={0: 80., 1: 82.})


def sparsifier(**given): # what a checkpoint keeps of it
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made = Sparsifier(model, torch.optim.SGD(model.parameters(), lr=.1), **dict(density=.3, every=4, until=9) | given)
    file = io.BytesIO(); torch.save(made.state_dict(), file); file.seek(0)
    return torch.load(file, weights_only=True)['settings']


def trained(**given): # the config of its run
    recipe = Recipe(epochs=1, batch=64, update_until=1, every=2)
    return fit('digits_net', 'digits', **dict(recipe=recipe, device='cpu', progress=False, batch_limit=4) | given).config


def judged(**given):
    found = verdict(ARMS, **given); str(found)
    return vars(found)


ENTRIES = {'Sparsifier': (Sparsifier, sparsifier), 'fit': (fit, trained), 'verdict': (verdict, judged),
           'Recipe': (Recipe, lambda **given: asdict(Recipe(**given))),
           'Job': (Job, lambda **given: asdict(Job('digits', 'digits_net', 'ggr', **dict(density=.1, init='erk', seed=0) | given))),
           'hybrid': (hybrid, lambda **given: hybrid(**given).keywords), 'sampled': (sampled, lambda **given: sampled(**given).keywords),
           'digits': (digits, lambda **given: len(digits(**given).test[1])),
           'hold_out': (DIGITS.hold_out, lambda **given: DIGITS.hold_out(**given).test[1].sum().item()),
           'part': (DIGITS.part, lambda **given: DIGITS.part(**dict(train=20) | given).train[1].sum().item())}
KINDS = {int: np.int64(4), float: np.float32(.25), int | None: np.int64(4)}
NUMBERS = [(entry, p.name, p.annotation, p.default is None) for entry, (function, _) in ENTRIES.items()
           for p in inspect.signature(function).parameters.values() if p.annotation in KINDS]


def test_the_signatures_were_read():
    assert len(NUMBERS) > 40 and {n[0] for n in NUMBERS} == ENTRIES.keys()


@pytest.mark.parametrize('entry, name, kind, optional', NUMBERS, ids=lambda x: str(getattr(x, '__name__', x)))
def test_a_number_of_numpy_is_a_number_and_anything_else_is_refused(entry, name, kind, optional):
    made, number = ENTRIES[entry][1], KINDS[kind]
    known = made(**{name: number})
    assert str(known) == str(made(**{name: number.item()})), 'not the same as with the number of Python'
    if isinstance(known, dict):
        assert all(type(v).__module__ != 'numpy' for v in known.values()) and (name not in known or known[name] == number)
    for wrong in (True, 'x', math.nan, math.inf, -math.inf, [1.], torch.ones(2), *[None] * (not optional)):
        with pytest.raises(ValueError, match=name) as e: made(**{name: wrong})
        assert '\n' not in str(e.value)


def test_a_seed_of_numpy_draws_the_same():
    assert generator(np.int64(3), 'x').initial_seed() == generator(3, 'x').initial_seed()
