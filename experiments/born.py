"""What a new weight begins with (nbs/studies/born.ipynb): exactly 0, or the paper's 1e-10?

    python experiments/born.py                 all of it; stop and go on at will
    python experiments/born.py --part mlp      one part: mlp, digits_net, lenet
    python experiments/born.py --quick         does everything run?

Fixed before the first run:
  endpoint   accuracy on the test pictures after the last step; the split is drawn by the seed. Nothing is chosen.
  question   1e-10 - 0, paired over ten seeds (same first masks, batches and draws), for SET, DSR and GGR in three networks
             from two starts: eighteen comparisons, one Holm family. RigL, which grows by gradient alone, is the control:
             six comparisons, a second family.
  beside it  how many active weights are still where they began (below 1e-6), and how many units have an active weight and
             none that has left that.
Results: results/born.jsonl.
"""
from functools import cache
from itertools import product

from torch import nn

from common import accuracy, digits, equip, recipe, resplit, run_all, seeded, train
from dead_first import small_cifar
from ggr_nb.train.models import digits_net, lenet, mlp

VALUES, METHODS, STARTS, SEEDS = (0., 1e-10), ('set', 'dsr', 'ggr', 'rigl'), ('uniform', 'erk'), range(10)
NETS = dict(mlp=mlp, digits_net=digits_net, lenet=lambda: lenet(10, input_size=(3, 16, 16)))
DENSITY = dict(mlp=.02, digits_net=.02, lenet=.01)              # with BatchNorm: digits_net alone
EPOCHS = dict(mlp=30, digits_net=30, lenet=4)                   # of 18, 18 and 62 steps
RHYTHM = dict(mlp={}, digits_net={}, lenet=dict(every=10, warmup=.15))
STILL = 1e-6                                                    # a weight below this has not left where it began


@cache
def pictures(kind): return small_cifar() if kind == 'lenet' else digits()

def work(net, method, value, init, seed, epochs=None):
    "One training; accuracy, and what has not moved."
    kind, epochs = net, epochs or EPOCHS[net]
    data, _ = resplit(pictures(kind), seed)
    r = recipe(.1, epochs, fraction=.3, **RHYTHM[kind])
    net = seeded(NETS[kind], seed)
    assert all(not m.bias.any() for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m.bias is not None)
    opt, sparsifier = equip(net, method, r, data, density=DENSITY[kind], init=init, scaling='unit', seed=seed, new_value=value)
    first = sparsifier.masks
    loss = train(net, opt, data, r, seed)
    masks, weights = sparsifier.masks, sparsifier.weights
    moved = {n: w.detach().abs() >= STILL for n, w in weights.items()}
    units = lambda on: sum(int(m.flatten(1).any(1).sum()) for m in on.values())
    return dict(accuracy=accuracy(net, data), loss=loss, updates=len(sparsifier.history), active=sum(sparsifier.counts().values()),
                still=sum(int((masks[n] & ~moved[n]).sum()) for n in masks), units=units(masks), units_start=units(first),
                units_moved=units({n: masks[n] & moved[n] for n in masks}), units_all=sum(len(m) for m in masks.values()))

def jobs():
    "A seed at a time: whatever is there when it is stopped is paired."
    for seed, kind, init, method, value in product(SEEDS, NETS, STARTS, METHODS, VALUES):
        yield dict(part=kind, net=kind, method=method, value=value, init=init, seed=seed)


if __name__ == '__main__': run_all(jobs(), work, 'results/born.jsonl')
