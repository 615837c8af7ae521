"""Fill the dashes: why a depthwise network under uniform density does not train, and what cures it
(nbs/studies/fill_the_dashes.ipynb).

    python experiments/dashes.py                    all of it, about half an hour on one core; stop and go on at will
    python experiments/dashes.py --quick            does everything run?
    python experiments/dashes.py --part start       one part

Parts: start (the gradient before the first step, by layer and by kind of channel), cures (uniform 97 %),
cost (the cells that work already), denser (98 %), elsewhere (networks without depthwise layers),
real (MobileNetV2, half as wide, on ten classes of CIFAR-100 at half the resolution; needs the data, see ggr_nb.train.data).
Results: results/dashes.jsonl.
"""
import math
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from common import accuracy, digits, equip, first_gradient, recipe, run_all, seeded, small_cifar, train
from ggr_nb.allocate import global_topk, global_topk_normalised, largest_remainder
from ggr_nb.beyond.connect import connected_masks, covering_budgets, covering_masks, drop_keep_units, even_masks
from ggr_nb.drop import drop_local
from ggr_nb.init import fan_in, random_masks
from ggr_nb.masks import apply_masks_, snapshot, sparse_parameters
from ggr_nb.methods import METHODS, new_masks, redistribute
from ggr_nb.train.models import digits_net, initialise_, mlp, mobilenet_v2
from ggr_nb.train.runs import Recipe
from ggr_nb.sparsify import plan
from ggr_nb.train.training import build, fit

DATA = digits()


def narrow():
    "MobileNetV2's blocks, few and narrow, for 8×8 digits."
    conv = lambda i, o, k, s=1: Conv2dNormActivation(i, o, k, s, activation_layer=nn.ReLU6)
    rows = (16, 16, 1, 1), (16, 24, 1, 4), (24, 64, 2, 4), (64, 64, 1, 4)   # in, out, stride, expansion
    blocks = [InvertedResidual(*row) for row in rows]
    return initialise_(nn.Sequential(conv(1, 16, 3, 2), *blocks, conv(64, 256, 1),
                                     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)))


# The cures, cheapest first.
def ceiling(times):
    "GGR's vote, but no layer gets more than `times` what it gave."
    def rule(snap, dropped, free):
        votes = global_topk(snap, dropped, free).quotas
        caps = {n: min(max(free[n].free, r), math.ceil(times * r)) for n, r in dropped.items()}
        return largest_remainder(votes, sum(dropped.values()), caps=caps)
    return rule

def warmed(net, masks, method, seed, rounds=5, fraction=.1):
    "Masks after several small updates before training; new weights take their initial values."
    weights = sparse_parameters(net); dense = {n: p.detach().clone() for n, p in weights.items()}
    for i in range(rounds):
        for n, p in weights.items(): p.data = dense[n] * masks[n]
        grads = first_gradient(net, DATA, seed + i)[1]
        snap = snapshot({n: p.detach() for n, p in weights.items()}, grads, masks, fraction=fraction, seed=seed, update=-i)
        masks = new_masks(masks, redistribute(method, snap))
    for n, p in weights.items(): p.data = dense[n]
    return masks

def alone(shape): return len(shape) == 4 and shape[1] == 1   # units that read one channel, as depthwise ones do

def dealt_to_alone(shapes, n, seed):
    "Masks that connect the units that read one channel, and leave the others to chance."
    sizes, floors = ({k: f(s) for k, s in shapes.items()} for f in (math.prod, lambda s: s[0] if alone(s) else 1))
    n = largest_remainder(n, sum(n.values()), caps=sizes, floors=floors)
    return random_masks(shapes, n, seed) | covering_masks({k: s for k, s in shapes.items() if alone(s)}, n, seed)

def drop_keep_alone(snap):
    "The last weight is safe where a unit reads one channel."
    plain, keeping = drop_local(snap), drop_keep_units(snap)
    return {k: (keeping if alone(l.shape) else plain)[k] for k, l in snap.layers.items()}

ggr, rigl = METHODS['ggr'], METHODS['rigl']
keep = partial(replace, drop=drop_keep_units)
keep_alone = partial(replace, drop=drop_keep_alone)
keep_both = partial(replace, drop=partial(drop_keep_units, sides=2))
CURES = {   # name: (first masks, method)
    'static': ('random', METHODS['static']), 'dsr': ('random', METHODS['dsr']), 'rigl': ('random', rigl), 'ggr': ('random', ggr),
    'ggr, normalised': ('random', replace(ggr, allocate=global_topk_normalised)),
    'ggr, ceiling': ('random', replace(ggr, allocate=ceiling(2))),
    'ggr, warm': ('warm', ggr),
    'floor: static': ('floor', METHODS['static']), 'floor: ggr': ('floor', ggr),
    'even: rigl': ('even', METHODS['srigl']),
    'only keep: rigl': ('random', keep(rigl)), 'only keep: ggr': ('random', keep(ggr)),
    'depthwise: static': ('alone', METHODS['static']), 'depthwise: rigl': ('alone', keep_alone(rigl)),
    'depthwise: ggr': ('alone', keep_alone(ggr)),
    'cover: static': ('cover', METHODS['static']), 'cover: rigl': ('cover', rigl), 'cover: ggr': ('cover', ggr),
    'keep: set': ('cover', keep(METHODS['set'])), 'keep: rigl': ('cover', keep(rigl)), 'keep: ggr': ('cover', keep(ggr)),
    'keep: ggr, normalised': ('cover', keep(replace(ggr, allocate=global_topk_normalised))),
    'keep both: rigl': ('cover', keep_both(rigl)), 'keep both: ggr': ('cover', keep_both(ggr))}

def first_masks(kind, net, density, init, seed):
    "Masks to start from."
    weights, n = plan(net, density, init); shapes = {k: tuple(p.shape) for k, p in weights.items()}
    if kind == 'cover': return connected_masks(weights, n, seed)
    if kind == 'even': return even_masks(shapes, covering_budgets(shapes, n), seed)
    if kind == 'alone': return dealt_to_alone(shapes, n, seed)
    if kind == 'floor': return random_masks(shapes, covering_budgets(shapes, n), seed)
    masks = random_masks(shapes, n, seed)
    return warmed(net, masks, ggr, seed) if kind == 'warm' else masks

def empty(masks): return sum(int((fan_in(m) == 0).sum()) for m in masks.values())

NETS = dict(narrow=narrow, digits_net=digits_net, mlp=mlp)

def work(seed, cure=None, density=.03, init='uniform', lr=.1, epochs=15, model=None, net='narrow', weights='keep', width=None):
    "One training on digits; with `model` a look at the gradient before it; with `width` MobileNetV2 on CIFAR-100."
    if model: return look(model, seed, density, init)
    if width: return real(seed, cure, density, init, lr, epochs, width)
    net = seeded(NETS[net], seed).to(memory_format=torch.channels_last)
    kind, method = CURES[cure]; masks = first_masks(kind, net, density, init, seed)
    r = recipe(lr, epochs, batch=128, every=5)
    opt, sparsifier = equip(net, method, r, DATA, density=density, init=init, seed=seed, masks=masks, scaling=weights)
    spread, _ = first_gradient(net, DATA, seed)
    loss = train(net, opt, DATA, r, seed)
    return dict(accuracy=accuracy(net, DATA), loss=loss, logits=spread, empty=[empty(masks), empty(sparsifier.masks)],
                counts=[[int(m.sum()) for m in masks.values()], list(sparsifier.counts().values())])


# One step towards the paper's cell.
def real(seed, cure, density, init, lr, epochs, width):
    "MobileNetV2 with the paper's strides, on ten classes; ten updates while the rate is high."
    kind, method = CURES[cure]
    net = build('mobilenet_v2', small_cifar(), seed, width)
    masks = first_masks(kind, net, density, init, seed)
    r = Recipe(epochs, batch=32, lr=lr, milestones=(epochs / 2, 3 * epochs / 4), warmup=.5, update_until=epochs / 2, fraction=.3, every=31)
    run = fit(net, small_cifar(), method, density, init, r, seed, masks=masks, progress=False)
    left = {n: m.cpu() for n, m in run.masks.items()}
    return dict(accuracy=run.history[-1]['accuracy'], curve=[round(h['accuracy'], 2) for h in run.history],
                empty=[empty(masks), empty(left)], weights=sum(map(torch.Tensor.numel, left.values())),
                counts=[[int(m.sum()) for m in ms.values()] for ms in (masks, left)])


def batch(model, seed, n):
    "Digits, for the large network blown up to 3×32×32."
    x, y = next(DATA.batches('train', n, 0, seed, augment=False))
    return (x, y) if model == 'narrow' else (interpolate(x, size=32).expand(-1, 3, -1, -1).contiguous(), y)

def look(model, seed, density, init, fraction=.3):
    "By layer: kind, size, gradient norm, the part of it in dead channels, and who would get the votes of GGR's first update."
    net = seeded(dict(narrow=narrow, mobilenet_v2=mobilenet_v2)[model], seed)
    weights, n = plan(net, density, init)
    masks = random_masks({k: tuple(p.shape) for k, p in weights.items()}, n, seed); apply_masks_(weights, masks)
    x, y = batch(model, seed, 128 if model == 'narrow' else 32)
    out, dead, grads = seeded(lambda: dissect(net, weights, x, y), seed)      # MobileNetV2 ends with dropout
    snap = snapshot({k: p.detach() for k, p in weights.items()}, grads, masks, fraction=fraction, seed=seed)
    update = redistribute(ggr, snap)
    rows = {k: row(masks[k], g, dead.get(k), len(update.dropped[k]), update.quotas[k]) for k, g in grads.items()}
    return dict(logits=out, layers=rows)

def dissect(net, weights, x, y):
    "Spread of the logits, {layer: which output channels are constant}, {layer: dense gradient}."
    dead, hooks = {}, []
    for name, m in net.named_modules():
        if not isinstance(m, nn.Conv2d): continue
        note = lambda m, i, o, name=name: dead.update({name + '.weight': o.detach().var((0, 2, 3)) == 0})
        hooks.append(m.register_forward_hook(note))
    out = net.train()(x)
    grads = dict(zip(weights, torch.autograd.grad(cross_entropy(out, y), list(weights.values()))))
    for h in hooks: h.remove()
    return float(out.detach().std(0).mean()), dead, grads

def row(mask, g, dead, dropped, quota):
    "What is kept of a layer."
    power = g.double().square().flatten(1).sum(1); total = float(power.sum())
    dead = torch.zeros(len(g), dtype=torch.bool) if dead is None else dead
    kind = 'depthwise' if g.shape[1] == 1 and g.ndim == 4 else 'linear' if g.ndim == 2 else 'dense'
    return dict(shape=list(g.shape), kind=kind, active=int(mask.sum()), dead=int(dead.sum()), norm=total ** .5,
                in_dead=float(power[dead].sum()) / total if total else 0., dropped=dropped, quota=quota)

def jobs():
    "Every run; in the ablation a whole seed at a time."
    for density, init in ((.03, 'uniform'), (.1, 'uniform'), (.03, 'erk')):
        for seed in range(12 if (density, init) == (.03, 'uniform') else 4):
            for model in ('narrow', 'mobilenet_v2'): yield dict(part='start', model=model, density=density, init=init, seed=seed)
    six = 'static', 'rigl', 'ggr', 'cover: static', 'keep: rigl', 'keep: ggr'
    for seed in range(10):
        for cure in CURES if seed < 5 else (*six, 'keep: set', 'cover: rigl', 'cover: ggr'):
            yield dict(part='cures', cure=cure, density=.03, init='uniform', seed=seed)
    for seed in range(5):
        for density, init in ((.03, 'erk'), (.1, 'uniform')):
            for cure in six: yield dict(part='cost', cure=cure, density=density, init=init, seed=seed)
        for cure in ('ggr', 'cover: static', 'keep: rigl', 'keep: ggr'): yield dict(part='denser', cure=cure, density=.02, init='uniform', seed=seed)
        for net, density, weights in (('digits_net', .03, 'keep'), ('mlp', .05, 'unit'), ('mlp', .01, 'unit')):
            for cure in six: yield dict(part='elsewhere', net=net, weights=weights, cure=cure, density=density, init='uniform', seed=seed)
    for cures in (('ggr', 'cover: static', 'keep: rigl'), ('keep: ggr',)):
        for seed in range(3):
            for cure in cures: yield dict(part='real', cure=cure, density=.03, init='uniform', width=.5, lr=.05, epochs=4, seed=seed)


if __name__ == '__main__': run_all(jobs(), work, 'results/dashes.jsonl')
