"""Claims of the GGR paper that nothing else here tests, on the digits (nbs/paper/claims.ipynb).

    python experiments/coverage.py      all of it; stop and go on at will

Fixed before the first run: accuracy on test pictures dealt by the seed, ten seeds, the paper's schedule (a tenth of the
weights in the first update, one update an epoch, half of the training), and one Holm family for each part:
  removal   smallest magnitude per layer against smallest of the whole network, in four cells (section 3.2)
  length    thirty against sixty epochs, static and GGR, in two cells (section 4: 200 epochs, or 100)
  share     all growth at random, half, all by gradient, with the vote and with local counts, from ERK in a network with
            BatchNorm; each against the half
Results: results/coverage.jsonl.
"""
from dataclasses import replace
from itertools import product

from common import accuracy, digits, equip, recipe, resplit, run_all, seeded, train, with_norm
from ggr_nb.allocate import global_topk, local
from ggr_nb.drop import drop_global
from ggr_nb.grow import hybrid
from ggr_nb.methods import METHODS
from ggr_nb.train.models import mlp
from harm import small_lenet

SEEDS, ggr = range(10), METHODS['ggr']
NETS = dict(mlp=(mlp, .05, 'unit'), lenet=(lambda: with_norm(small_lenet()), .3, 'keep'))   # make, rate, first values
ARMS = {'static': METHODS['static'], 'ggr': ggr, 'global removal': replace(ggr, drop=drop_global)}
ARMS |= {f'{name}, {share:g}': replace(ggr, allocate=rule, grow=hybrid(share))
         for (name, rule), share in product((('vote', global_topk), ('local', local)), (0., .5, 1.))}
CELLS = [('mlp', .01), ('mlp', .05), ('lenet', .03), ('lenet', .1)]

def work(net, density, arm, seed, init='erk', epochs=30):
    "One training; accuracy on test and on validation pictures."
    (make, lr, values), (data, valid) = NETS[net], resplit(digits(), seed)
    model, r = seeded(make, seed), recipe(lr, epochs, fraction=.1)
    opt, sparsifier = equip(model, ARMS[arm], r, data, density=density, init=init, scaling=values, seed=seed)
    train(model, opt, data, r, seed)
    return dict(accuracy=accuracy(model, data), valid=accuracy(model, valid), counts=list(sparsifier.counts().values()))

def jobs():
    "Every run, a seed at a time."
    for seed in SEEDS:
        for (net, density), arm in product(CELLS, ('ggr', 'global removal')):
            yield dict(part='removal', net=net, density=density, arm=arm, seed=seed)
        for (net, density), arm, epochs in product(CELLS[::2], ('static', 'ggr'), (30, 60)):
            yield dict(part='length', net=net, density=density, arm=arm, seed=seed, epochs=epochs)
        for density, rule, share in product((.03, .1), ('vote', 'local'), (0., .5, 1.)):
            yield dict(part='share', net='lenet', density=density, arm=f'{rule}, {share:g}', seed=seed)


if __name__ == '__main__': run_all(jobs(), work, 'results/coverage.jsonl')
