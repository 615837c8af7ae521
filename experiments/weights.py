"""Fantastic weights: pruning criteria inside dynamic sparse training (nbs/studies/fantastic_weights.ipynb).

    python experiments/weights.py                 all of it, an hour on one core; stop and go on at will
    python experiments/weights.py --quick         does everything run?
    python experiments/weights.py --part period   one part

Parts: criteria (criteria × densities × growth), jaccard (what each criterion would remove from the same state, and how
much of it was born at the last update), dead (how much of it has no gradient, and what its removal costs), mended
(two criteria with the dead first), cifar (a real subset of CIFAR-100), 'cifar, mended' (magnitude with the dead first,
there), norm and 'norm, mended' (the same for GGR in a network with BatchNorm), period (criteria × steps between updates, in a training of fixed length).
Results: results/weights.jsonl.
"""
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from common import accuracy, cifar100, digits, equip, grid, recipe, run_all, seeded, train
from ggr_nb.train.data import Data
from ggr_nb.drop import CRITERIA, drop_local
from ggr_nb.init import as_mask
from ggr_nb.masks import snapshot
from ggr_nb.train.measure import jaccard
from ggr_nb.methods import METHODS
from ggr_nb.train.models import digits_net, lenet, mlp

SEEDS, FRACTION, UNTIL = range(5), .5, .75
DENSITIES = [.01, .03, .05, .1, .2, .3, .5]
WITHOUT = 'static', 'dense'       # these drop nothing


def method(criterion, growth, drop=None):
    "SET, RigL or GGR with another criterion."
    base = METHODS[{'random': 'set', 'gradient': 'rigl', 'vote': 'ggr'}[growth]]
    return replace(base, name=f'{criterion}, {growth}', drop=drop or partial(drop_local, criterion=criterion))

@lru_cache
def data_of(kind): return some_classes() if kind.startswith('cifar') else digits()

def some_classes(classes=10):
    "The first classes of CIFAR-100, all their images."
    data = cifar100(); pick = lambda split: split[1] < classes
    cut = lambda split: tuple(t[pick(split)] for t in split)
    return Data(f'cifar100, {classes} classes', cut(data.train), cut(data.test), classes, data.mean, data.std)

def make_net(data, kind):
    if kind.startswith('norm'): return digits_net()      # three convolutions with BatchNorm
    return mlp() if data.name == 'digits' else lenet(data.classes, input_size=(3, 32, 32))

def work(kind, criterion, growth, density, seed, lr, every=None, epochs=30):
    data, seen = data_of(kind), {}
    net, r = seeded(partial(make_net, data, kind), seed), recipe(lr, epochs, every=every, fraction=FRACTION, update_until=UNTIL * epochs)
    drop = {'jaccard': partial(watching, seen, criterion), 'dead': partial(weighing, seen, net, data, criterion),
            'mended': partial(mended, criterion)}.get(kind.removeprefix('cifar, ').removeprefix('norm, '))
    chosen = criterion if criterion in WITHOUT else method(criterion, growth, drop)
    opt, sparsifier = equip(net, chosen, r, data, density=density, init='erk', scaling='unit', seed=seed)
    train(net, opt, data, r, seed); seen.pop('before', None)
    found = dict(accuracy=accuracy(net, data), updates=sparsifier.updates) | seen
    return found | (trained(net, sparsifier, data, r, seed) if kind == 'jaccard' else {})

# --- what would each criterion remove? ------------------------------------------------------------------------------

def masks_of(snap): return {n: as_mask(l.places, l.shape) for n, l in snap.layers.items()}

def watching(seen, criterion, snap):
    "A drop rule that asks all criteria first, then does what `criterion` says."
    before = seen.pop('before', None)
    seen.setdefault('fractions', []).append(round(snap.fraction, 4))
    for key, value in asked(snap, before).items(): seen.setdefault(key, []).append(value)
    seen['before'] = masks_of(snap)
    return drop_local(snap, criterion)

def asked(snap, before=None):
    "Overlap of every pair of removal sets (1 on the diagonal); how much of the last update's growth each would remove."
    gone = {c: drop_local(snap, c) for c in CRITERIA}
    found = dict(overlaps=[[round(jaccard(a, b), 4) for b in gone.values()] for a in gone.values()])
    if before is not None: found['newborn'] = [round(share_of_newborn(snap, before, g), 4) for g in gone.values()]
    return found

def share_of_newborn(snap, before, gone):
    "|removed and newborn| / |newborn|, where newborn is active now and was not before the last update."
    new = {n: (m & ~before[n]).flatten() for n, m in masks_of(snap).items()}
    return sum(int(new[n][p].sum()) for n, p in gone.items()) / max(1, sum(int(m.sum()) for m in new.values()))

def trained(net, sparsifier, data, recipe, seed):
    "The same question to the trained net, half of the weights to go, one more batch of training images."
    x, y = next(data.batches('train', recipe.batch, recipe.epochs, seed, augment=False))
    net.train().zero_grad(); cross_entropy(net(x), y).backward()
    weights = {n: p.detach() for n, p in sparsifier.weights.items()}
    grads = {n: p.grad for n, p in sparsifier.weights.items()}
    return dict(trained=asked(snapshot(weights, grads, sparsifier.masks, fraction=FRACTION, seed=seed))['overlaps'],
                names=list(CRITERIA))

# --- what would the removal cost? -----------------------------------------------------------------------------------

def weighing(seen, net, data, criterion, snap):
    "A drop rule that first asks what every criterion's choice holds: weights without any gradient, and accuracy."
    gone = {c: drop_local(snap, c) for c in CRITERIA}
    every = {n: l.places for n, l in snap.layers.items()}
    nothing = {n: p[:0] for n, p in every.items()}
    seen['names'] = list(CRITERIA)
    for key, value in dict(dead=dead(snap, every), dead_removed=[dead(snap, g) for g in gone.values()],
                           intact=left(net, data, snap, nothing), left=[left(net, data, snap, g) for g in gone.values()]).items():
        seen.setdefault(key, []).append(value)
    return gone[criterion]

def mended(criterion, snap):
    "The dead first, then by the criterion: a weight without a gradient has the lowest score there is."
    still = torch.inf if criterion == 'reciprocal_sensitivity' else 0
    def score(w, g, gen): return CRITERIA[criterion](w.masked_fill(g == 0, 0), g.masked_fill(g == 0, still), gen)
    return drop_local(snap, score)

def dead(snap, places):
    "Share of these weights whose gradient is exactly zero: their unit is not heard, or hears nothing."
    zero = sum(int((snap.layers[n].gradient_at(p) == 0).sum()) for n, p in places.items())
    return round(zero / max(1, sum(map(len, places.values()))), 4)

@torch.no_grad()
def left(net, data, snap, gone, images=500):
    "Accuracy on training images right after the removal, in percent."
    x, y = next(data.batches('train', images, 0, 0, augment=False))
    cut = {n: as_mask(l.places, l.shape).to(l.values.dtype).flatten().index_put((l.places,), l.values).index_fill(0, gone[n], 0).view(l.shape)
           for n, l in snap.layers.items()}
    return round(100 * float((functional_call(net, cut, x).argmax(1) == y).float().mean()), 2)

# --- the jobs -------------------------------------------------------------------------------------------------------

def cells(part, **axes): return grid(part, kind=[part], **axes)      # `work` goes by the kind

def jobs():
    "Every run. What can be told from few seeds comes first."
    digits_, growth, every_one = dict(lr=[.05]), dict(growth=['random', 'gradient']), dict(criterion=list(CRITERIA))
    still, dense = dict(growth=['random'], criterion=['static']), dict(growth=['random'], criterion=['dense'], density=[1.])
    yield from cells('criteria', **digits_, density=DENSITIES, **growth, **every_one, seed=SEEDS)
    yield from cells('criteria', **digits_, density=DENSITIES, **still, seed=SEEDS)
    yield from cells('criteria', **digits_, **dense, seed=SEEDS)
    yield from cells('jaccard', **digits_, density=[.03, .2], **growth, criterion=['magnitude'], seed=SEEDS)
    yield from cells('dead', **digits_, density=[.01, .03, .1, .3], **growth, criterion=['magnitude', 'snip', 'reciprocal_sensitivity'],
                     seed=SEEDS)
    yield from cells('mended', **digits_, density=[.01, .03, .1, .3], **growth, criterion=['reciprocal_sensitivity', 'magnitude'],
                     seed=SEEDS)
    real = dict(lr=[.03], epochs=[5], every=[39])       # an update every half epoch
    for seed in SEEDS:
        yield from cells('cifar', **real, seed=[seed], density=[.01, .03, .1, .2], **growth, **every_one)
        yield from cells('cifar', **real, seed=[seed], density=[.01, .03, .1, .2], **still)
        yield from cells('cifar', **real, seed=[seed], **dense)
    yield from cells('cifar, mended', **real, seed=SEEDS, density=[.01, .03], **growth, criterion=['magnitude'])
    voted = dict(growth=['vote'], density=[.01, .03], seed=SEEDS)
    for plain, first, options in ('criteria', 'mended', digits_), ('cifar', 'cifar, mended', real):
        yield from cells(plain, **options, **voted, criterion=['magnitude', 'snip'])
        yield from cells(first, **options, **voted, criterion=['magnitude'])
    for part in 'norm', 'norm, mended':
        yield from cells(part, lr=[.1], growth=['vote'], density=[.005, .01, .02], seed=range(10), criterion=['magnitude'])
    usual = dict(density=[.03], growth=['gradient'])
    yield from cells('period', **digits_, **usual, every=[3, 10, 73, 220], **every_one, seed=SEEDS)


if __name__ == '__main__': run_all(jobs(), work, 'results/weights.jsonl')
