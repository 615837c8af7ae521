"""When a vote by gradient does harm (nbs/studies/vote_harm.ipynb): networks in which moving weights is worse than not.

    python experiments/harm.py                  all of it; stop and go on at will
    python experiments/harm.py --part narrow    one part: pilot, narrow, lenet
    python experiments/harm.py --quick          does everything run?

Fixed before the first run of the parts `narrow` and `lenet`:
  endpoint   accuracy on the test pictures after the last step; the split is drawn by the seed; the learning rate of
             each network is the one at which `static` is best on validation pictures (part `pilot`).
  question   ERK, 3 % dense, every draw alive before training, ten seeds, four networks (depthwise or LeNet, with
             BatchNorm or without). Take GGR with an update every 5 steps and a first fraction of .3, and change one
             ingredient at a time: `INGREDIENTS`, in each network; 4 x 11 comparisons are one Holm family.
  then       all arms at all periods against static (a second family), and the rules at the other periods.
Results: results/harm.jsonl.
"""
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import nn

from common import accuracy, digits, equip, first_gradient, recipe, resplit, run_all, seeded, train, with_norm
from dashes import empty, narrow
from dead_first import first
from ggr_nb.allocate import global_topk, mean_gradient
from ggr_nb.beyond.connect import drop_keep_units
from ggr_nb.drop import drop_local, drop_lowest
from ggr_nb.init import random_masks, rescale_
from ggr_nb.masks import apply_masks_
from ggr_nb.methods import METHODS
from ggr_nb.sparsify import plan
from ggr_nb.train.models import lenet

SEEDS, PERIODS, EPOCHS, BATCH, DENSITY = range(10), (5, 11, 22), 15, 96, .03       # 11 steps are an epoch
RATES = {('narrow', True): .1, ('narrow', False): .3, ('lenet', True): .3, ('lenet', False): .1}  # by part `pilot`


# --- four networks --------------------------------------------------------------------------------------------------

class Bias(nn.Module):
    "What is left of a BatchNorm that does not normalise."
    def __init__(self, channels): super().__init__(); self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
    def forward(self, x): return x + self.bias

def without_norm(net):
    "The same network, a bias in place of every BatchNorm."
    for m in list(net.modules()):
        for name, child in m.named_children():
            if isinstance(child, nn.BatchNorm2d): setattr(m, name, Bias(child.num_features))
    return net

small_lenet = partial(lenet, 10, input_size=(1, 8, 8))
NETS = {('narrow', True): narrow, ('narrow', False): lambda: without_norm(narrow()),
        ('lenet', True): lambda: with_norm(small_lenet()), ('lenet', False): small_lenet}

def alive(make, values, seed, data):
    "A network and masks whose output depends on the input: the first of the seed's draws that is so, and its number."
    for draw in range(50):
        net = seeded(make, seed)
        weights, n = plan(net, DENSITY, 'erk')
        masks = random_masks({k: tuple(p.shape) for k, p in weights.items()}, n, seed + 1000 * draw)
        for k, p in weights.items():
            if values == 'unit': rescale_(p, masks[k], values)
        apply_masks_(weights, masks)
        if first_gradient(net, data, seed)[0] > 1e-6: return seeded(make, seed), masks, draw
    raise RuntimeError(f'seed {seed}: no draw in fifty is alive')


# --- ingredients, each a line or two --------------------------------------------------------------------------------

def without_classifier(rule):
    "An allocation in which the last layer has no voice: it gets back what it gave, the others share theirs."
    def allocate(snap, dropped, free):
        *others, last = snap.layers
        cut = lambda d: {n: d[n] for n in others}
        found = rule(replace(snap, layers=cut(snap.layers)), cut(dropped), cut(free))
        return getattr(found, 'quotas', found) | {last: dropped[last]}
    return allocate

def spare_newborn(snap):
    "Magnitude removal that spares what was grown in the update before."
    before, gone = snap.memory.get('before', {}), {}
    for n, l in snap.layers.items():
        newborn = ~torch.isin(l.places, before.get(n, l.places))
        gone[n] = drop_lowest(snap, l, l.values.abs().masked_fill(newborn, torch.inf), round(snap.fraction * len(l.places)))
    return gone, dict(before={n: l.places for n, l in snap.layers.items()})

def after(steps, every, drop):
    "No removal, and so no move, before a step."
    return lambda snap: drop(replace(snap, fraction=0.) if snap.update * every <= steps else snap)

def dead_first(snap): return first(snap, {n: l.grads == 0 for n, l in snap.layers.items()}, 'random')

ggr, rigl, local = METHODS['ggr'], METHODS['rigl'], METHODS['set+rigl']
mean = replace(ggr, allocate=mean_gradient)
ARMS = {   # name: steps between updates -> method
    'static': lambda every: METHODS['static'], 'set': lambda every: METHODS['set'], 'rigl': lambda every: rigl,
    'local': lambda every: local, 'ggr': lambda every: ggr, 'mean gradient': lambda every: mean,
    'ggr, classifier out': lambda every: replace(ggr, allocate=without_classifier(global_topk)),
    'mean gradient, classifier out': lambda every: replace(ggr, allocate=without_classifier(mean_gradient)),
    'ggr, late': lambda every: replace(ggr, drop=after(11, every, drop_local)),       # not in the warm-up
    'ggr, newborn spared': lambda every: replace(ggr, drop=spare_newborn),
    'ggr, dead first': lambda every: replace(ggr, drop=dead_first),
    'ggr, keep': lambda every: replace(ggr, drop=drop_keep_units),                    # a unit's last weight stays
    'rigl, keep': lambda every: replace(rigl, drop=drop_keep_units)}
PLAIN = 'set', 'rigl', 'local', 'ggr', 'mean gradient', 'ggr, classifier out', 'mean gradient, classifier out'
RULES = 'ggr, late', 'ggr, newborn spared', 'ggr, dead first', 'ggr, keep', 'rigl, keep'
WORST = dict(arm='ggr', every=5, fraction=.3)
INGREDIENTS = {    # what is changed: (settings, settings they are compared with)
    'moving at all': (WORST, dict(arm='static')),
    'an update every 22 steps': (WORST | dict(every=22), WORST),
    'a first fraction of .1': (WORST | dict(fraction=.1), WORST),
    'no vote: counts stay': (WORST | dict(arm='local'), WORST),
    'no gradient at all: SET': (WORST | dict(arm='set'), WORST),
    'shares by mean gradient': (WORST | dict(arm='mean gradient'), WORST),
    'classifier out of the vote': (WORST | dict(arm='ggr, classifier out'), WORST),
    'no update in the warm-up': (WORST | dict(arm='ggr, late'), WORST),
    'newborn spared once': (WORST | dict(arm='ggr, newborn spared'), WORST),
    'dead weights first': (WORST | dict(arm='ggr, dead first'), WORST),
    'a unit keeps its last weight': (WORST | dict(arm='ggr, keep'), WORST)}


# --- one run --------------------------------------------------------------------------------------------------------

def work(net, norm, arm, seed, every=11, fraction=.3, lr=None, epochs=EPOCHS):
    "One training; accuracy on test and on validation pictures, what became of the layers and of their units."
    data, valid = resplit(digits(), seed); kind = net
    values = 'keep' if norm else 'unit'         # a BatchNorm does not ask for the scale, and its rate would shrink with it
    net, masks, draw = alive(NETS[kind, norm], values, seed, data)
    if kind == 'narrow': net = net.to(memory_format=torch.channels_last)
    r = recipe(lr or RATES[kind, norm], epochs, batch=BATCH, every=every, fraction=fraction)
    opt, sparsifier = equip(net, ARMS[arm](every), r, data, density=DENSITY, init='erk', seed=seed, masks=masks, scaling=values)
    found = dict(draw=draw)
    try: found |= dict(loss=train(net, opt, data, r, seed), finished=True)
    except FloatingPointError: found |= dict(finished=False)            # an infinite gradient: scored as it stands
    ends = [{n: int(m.sum()) for n, m in ms.items()} for ms in (masks, sparsifier.masks)]
    return found | dict(accuracy=accuracy(net, data), valid=accuracy(net, valid), updates=len(sparsifier.history),
                        empty=[empty(masks), empty(sparsifier.masks)], counts=[list(e.values()) for e in ends])

def jobs():
    "Every run, a whole seed at a time: whatever is there when it is stopped is paired."
    for (net, norm), seed, lr in product(NETS, (100, 101, 102), (.03, .1, .3)):
        yield dict(part='pilot', net=net, norm=norm, arm='static', seed=seed, lr=lr)
    asked = [dict(arm='rigl', every=5, fraction=.3), dict(arm='rigl, keep', every=5, fraction=.3)]
    asked += [side for sides in INGREDIENTS.values() for side in sides]
    others = [dict(arm=a, every=every, fraction=.3) for every, a in product(PERIODS, (*PLAIN, 'ggr, keep'))]
    others += [dict(arm=a, every=every, fraction=.1) for every, a in product(PERIODS[:2], ('rigl', 'ggr'))]
    seen = []
    for settings in asked, others:                                  # the question first, at all its seeds
        new = [s for i, s in enumerate(settings) if s not in seen and s not in settings[:i]]; seen += new
        for seed, (net, norm), setting in product(SEEDS, NETS, new):
            yield dict(part=net, net=net, norm=norm, seed=seed) | setting


if __name__ == '__main__': run_all(jobs(), work, 'results/harm.jsonl')
