"""Fantastic weights: pruning criteria inside dynamic sparse training (nbs/tutorials/fantastic_weights.ipynb).

    python experiments/weights.py                 all of it, some minutes on one core; stop and go on at will
    python experiments/weights.py --quick         does everything run?
    python experiments/weights.py --part period   one part

Parts: criteria (criteria × densities × growth), period (criteria × steps between updates), jaccard (what each criterion
would remove from the same state), cifar (a real subset of CIFAR-100). Results: results/weights.jsonl.
"""
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from common import accuracy, digits, equip, recipe, run_all, seeded, train
from ggr_nb.data import Data, cifar100
from ggr_nb.drop import CRITERIA, drop_local
from ggr_nb.measure import jaccard
from ggr_nb.methods import METHODS
from ggr_nb.models import lenet, mlp

SEEDS, FRACTION, UNTIL = range(5), .5, .75


def method(criterion, growth):
    "SET or RigL with another criterion."
    base = METHODS[{'random': 'set', 'gradient': 'rigl'}[growth]]
    return replace(base, name=f'{criterion}, {growth}', drop=partial(drop_local, criterion=criterion), needs=('grads',))

def some_classes(classes=10, test=50):
    "The first classes of CIFAR-100, all their training images."
    data = cifar100(); pick = lambda split: split[1] < classes
    cut = lambda split: tuple(t[pick(split)] for t in split)
    return Data(f'cifar100, {classes} classes', cut(data.train), cut(data.test), classes, data.mean, data.std)

def prepared(data, seed, density, lr, epochs, chosen, every):
    r = recipe(lr, epochs, every=every, fraction=FRACTION, update_until=UNTIL * epochs)
    make = mlp if data.name == 'digits' else lambda: lenet(data.classes, input_size=(3, 32, 32))
    net = seeded(make, seed)
    return net, *equip(net, chosen, r, data, density=density, init='erk', weights='unit', seed=seed), r

def work(kind, criterion, growth, density, seed, lr, every=None, epochs=30):
    data = digits() if kind != 'cifar' else some_classes()
    chosen = criterion if criterion == 'static' else method(criterion, growth)
    net, opt, sparsifier, r = prepared(data, seed, density, lr, epochs, chosen, every)
    seen = watched(opt, sparsifier) if kind == 'jaccard' else {}
    train(net, opt, data, r, seed)
    return dict(accuracy=accuracy(net, data), updates=sparsifier.updates, **seen)

def watched(opt, sparsifier):
    "At every update: what would each criterion remove? The overlap of every pair, 1 on the diagonal."
    seen = dict(overlaps=[], fractions=[], names=list(CRITERIA))
    sparsifier.remove(); opt.register_step_pre_hook(lambda *_: look(sparsifier, seen))
    sparsifier._hooks = [opt.register_step_pre_hook(sparsifier._before), opt.register_step_post_hook(sparsifier._after)]
    return seen

def look(sparsifier, seen):
    if not sparsifier.due(): return
    snap = sparsifier.snapshot(); gone = {c: drop_local(snap, c) for c in CRITERIA}
    seen['fractions'].append(snap.fraction)
    seen['overlaps'].append([[jaccard(a, b) for b in gone.values()] for a in gone.values()])

def jobs():
    "Every run, seeds innermost."
    grid = lambda part, **axes: (dict(zip(axes, v), part=part, kind=part) for v in product(*axes.values()))
    base, growth = dict(lr=[.05]), dict(growth=['random', 'gradient'])
    yield from grid('criteria', **base, density=[.01, .03, .1], **growth, criterion=list(CRITERIA), seed=SEEDS)
    yield from grid('criteria', **base, density=[.01, .03, .1], growth=['random'], criterion=['static'], seed=SEEDS)
    yield from grid('jaccard', **base, density=[.03], growth=['random', 'gradient'], criterion=['magnitude'], seed=SEEDS)
    yield from grid('period', **base, density=[.03], growth=['gradient'], every=[3, 10, 30, 100, 300],
                    criterion=['magnitude', 'random', 'snip', 'reciprocal_sensitivity'], seed=SEEDS)
    yield from grid('criteria', **base, density=[.3], **growth, criterion=list(CRITERIA), seed=SEEDS[:3])
    yield from grid('cifar', density=[.03], growth=['gradient'], criterion=['static', 'magnitude', 'random', 'snip', 'mest'],
                    lr=[.03], epochs=[10], seed=SEEDS[:3])


if __name__ == '__main__': run_all(jobs(), work, 'results/weights.jsonl')
