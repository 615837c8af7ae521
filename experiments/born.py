"""What a new weight begins with (nbs/studies/born.ipynb): exactly 0, or the paper's 1e-10?

    python experiments/born.py                 all of it; stop and go on at will
    python experiments/born.py --part mlp      one part: mlp, digits_net, lenet, cause
    python experiments/born.py --quick         does everything run?

Fixed before the first run:
  endpoint   accuracy on the test pictures after the last step; the split is drawn by the seed. Nothing is chosen.
  question   1e-10 - 0, paired over ten seeds (same first masks, batches and draws), for SET, DSR and GGR in three networks
             from two starts: eighteen comparisons, one Holm family. RigL, which grows by gradient alone, is the control:
             six comparisons, a second family.
  beside it  how many active weights are still where they began (below 1e-6), and how many units have an active weight and
             none that has left that.
Then, after the answer for `digits_net` was seen (1e-10 does harm there, from the uniform start, to SET and GGR): why?
  suspect    BatchNorm divides by sqrt(variance + eps). In a channel without weights the variance is 0, so the gradient of
             the first weight there is 1/sqrt(eps) = 316 times as large; at exactly 0 the ReLU lets none of it through.
  test       part `cause`: the same runs with eps = .1 (3 times), and the first ones again with what new weights have become
             by the next update. Two comparisons, 1e-10 - 0 at eps = .1: a third family.
Results: results/born.jsonl.
"""
from dataclasses import replace
from functools import cache, partial
from itertools import product

import torch
from torch import nn

from common import accuracy, digits, equip, recipe, resplit, run_all, seeded, small_cifar, train
from ggr_nb.methods import METHODS as REGISTRY
from ggr_nb.train.models import digits_net, lenet, mlp

VALUES, METHODS, STARTS, SEEDS = (0., 1e-10), ('set', 'dsr', 'ggr', 'rigl'), ('uniform', 'erk'), range(10)
NETS = dict(mlp=mlp, digits_net=digits_net, lenet=lambda: lenet(10, input_size=(3, 16, 16)))
DENSITY = dict(mlp=.02, digits_net=.02, lenet=.01)              # with BatchNorm: digits_net alone
EPOCHS = dict(mlp=30, digits_net=30, lenet=4)                   # of 18, 18 and 62 steps
RHYTHM = dict(mlp={}, digits_net={}, lenet=dict(every=10, warmup=.15))
STILL = 1e-6                                                    # a weight below this has not left where it began


@cache
def pictures(kind): return small_cifar() if kind == 'lenet' else digits()

def noting(drop, seen, kept, snap):
    "The method's own removal; beside it, how large the weights are that the update before has grown, against the others."
    gone, young, old = drop(snap), [], []
    for n, l in snap.layers.items():
        if n in kept:
            new = ~torch.isin(l.places, kept[n]); young.append(l.values[new].abs()); old.append(l.values[~new].abs())
        kept[n] = l.places[~torch.isin(l.places, gone[n])]
    if young: seen.append([round(float(torch.cat(t).mean()), 4) for t in (young, old)] + [round(float(torch.cat(young).max()), 3)])
    return gone

def work(net, method, value, init, seed, epochs=None, eps=None):
    "One training; accuracy, and what has not moved."
    kind, epochs, sizes = net, epochs or EPOCHS[net], []
    data, _ = resplit(pictures(kind), seed)
    r = recipe(.1, epochs, fraction=.3, **RHYTHM[kind])
    net = seeded(NETS[kind], seed)
    assert all(not m.bias.any() for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m.bias is not None)
    if eps:
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d): m.eps = eps
        method = REGISTRY[method]; method = replace(method, drop=partial(noting, method.drop, sizes, {}))
    opt, sparsifier = equip(net, method, r, data, density=DENSITY[kind], init=init, scaling='unit', seed=seed, new_value=value)
    first = sparsifier.masks
    loss = train(net, opt, data, r, seed)
    masks, weights = sparsifier.masks, sparsifier.weights
    moved = {n: w.detach().abs() >= STILL for n, w in weights.items()}
    units = lambda on: sum(int(m.flatten(1).any(1).sum()) for m in on.values())
    found = dict(young_old_most=sizes) if eps else {}
    return found | dict(accuracy=accuracy(net, data), loss=loss, updates=len(sparsifier.history), active=sum(sparsifier.counts().values()),
                still=sum(int((masks[n] & ~moved[n]).sum()) for n in masks), units=units(masks), units_start=units(first),
                units_moved=units({n: masks[n] & moved[n] for n in masks}), units_all=sum(len(m) for m in masks.values()))

def jobs():
    "A seed at a time: whatever is there when it is stopped is paired."
    for seed, kind, init, method, value in product(SEEDS, NETS, STARTS, METHODS, VALUES):
        yield dict(part=kind, net=kind, method=method, value=value, init=init, seed=seed)
    for seed, method, eps, value in product(SEEDS, ('set', 'ggr'), (.1, 1e-5), VALUES):
        yield dict(part='cause', net='digits_net', method=method, value=value, init='uniform', seed=seed, eps=eps)


if __name__ == '__main__': run_all(jobs(), work, 'results/born.jsonl')
