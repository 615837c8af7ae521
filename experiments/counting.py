"""Who feeds whom, and how much of growth should be chance (nbs/studies/who_feeds_whom.ipynb, half_by_gradient.ipynb).

    python experiments/counting.py                 all of it, a quarter of an hour on one core; stop and go on at will
    python experiments/counting.py --quick         does everything run?
    python experiments/counting.py --part hybrid   one part

Parts: counting (seven allocations, the rest of the method fixed, on an MLP and on a convolutional net with BatchNorm),
hybrid (share of gradient insertion 0 … 1, with GGR's vote and locally, on both). Results: results/counting.jsonl.
"""
from dataclasses import replace

from common import accuracy, digits, equip, grid, recipe, run_all, seeded, train
from ggr_nb.allocate import ALLOCATIONS
from ggr_nb.grow import hybrid
from ggr_nb.init import random_masks
from ggr_nb.methods import METHODS
from ggr_nb.train.models import digits_net, mlp

SEEDS, DATA = range(5), digits()
RULES = ['local', 'survivors', 'mean_momentum', 'mean_gradient', 'global_topk', 'global_topk_normalised', 'random']
SHARES = [0., .1, .25, .5, .75, 1.]
NETS = {'mlp': mlp, 'conv': lambda: digits_net(width=.5)}


def method(allocate, share):
    "GGR with another allocation, and another share of growth by gradient."
    needs = ('dense momenta',) if allocate == 'mean_momentum' else ()
    return replace(METHODS['ggr'], name=f'{allocate} {share:g}', allocate=ALLOCATIONS[allocate], grow=hybrid(share), needs=needs)

def clumping(sums, size, n):
    "Variance of the row (or column) sums over that of a random mask with n active places: 1 if there is no structure."
    rows, total = len(sums), len(sums) * size
    chance = size * (n / total) * (1 - n / total) * (total - size) / max(1, total - 1)
    return float(sums.float().var(correction=0)) / chance if chance else 1.

def structure(mask):
    "Empty rows and columns of a mask, in shares, and how its weights clump in rows and columns."
    m = mask.flatten(1); rows, cols, n = m.sum(1), m.sum(0), int(m.sum())
    return dict(shape=list(m.shape), count=n, size=m.numel(), empty_rows=float((rows == 0).float().mean()), empty_cols=float((cols == 0).float().mean()),
                row_clumping=clumping(rows, m.shape[1], n), col_clumping=clumping(cols, m.shape[0], n))

def trained(net, seed, method, density, init, lr, epochs, masks=None):
    make, r = (lambda: NETS[net]()), recipe(lr, epochs)
    model = seeded(make, seed)
    opt, sparsifier = equip(model, method, r, DATA, density=density, init=init, scaling='unit', seed=seed, masks=masks)
    train(model, opt, DATA, r, seed)
    return accuracy(model, DATA), sparsifier

def work(net, allocate, share, density, init, seed, lr, epochs=30, again=True):
    "One run; with `again`, also a static one whose random masks have the first one's final counts."
    found, sparsifier = trained(net, seed, method(allocate, share), density, init, lr, epochs)
    masks = sparsifier.masks; shapes = {n: tuple(m.shape) for n, m in masks.items()}
    out = dict(accuracy=found, layers={n: structure(m) for n, m in masks.items()})
    if again: out['counts_alone'] = trained(net, seed, 'static', density, init, lr, epochs,
                                            random_masks(shapes, sparsifier.counts(), seed + 1000))[0]
    return out

def jobs():
    "Every run. The small net first; the other seed by seed, so that it can be stopped."
    mlp_, conv = dict(net=['mlp'], lr=[.05]), dict(net=['conv'], lr=[.1])
    for density, init in (.01, 'uniform'), (.01, 'erk'), (.05, 'uniform'):
        yield from grid('counting', **mlp_, density=[density], init=[init], allocate=RULES, share=[.5], seed=SEEDS)
    voted = dict(init=['uniform'], allocate=['global_topk', 'local'], again=[False])
    yield from grid('hybrid', **mlp_, density=[.01, .03, .1], **voted, share=SHARES, seed=SEEDS)
    small = dict(again=[False], allocate=RULES, share=[.5])
    for seed in SEEDS:
        for init in 'uniform', 'erk':
            yield from grid('counting', **conv, seed=[seed], density=[.03], init=[init], **small)
        yield from grid('hybrid', **conv, seed=[seed], density=[.03, .1], **voted, share=SHARES)
    yield from grid('counting', **conv, seed=SEEDS[:2], density=[.01], init=['uniform'], **small)


if __name__ == '__main__': run_all(jobs(), work, 'results/counting.jsonl')
