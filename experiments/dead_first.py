"""Dead weights first (nbs/studies/dead_weights.ipynb): should an update remove weights without a gradient before small ones?

    python experiments/dead_first.py                 all of it; stop and go on at will
    python experiments/dead_first.py --part lenet    one part: pilot, digits_net, lenet, batches
    python experiments/dead_first.py --quick         does everything run?

Fixed before the first run of the parts `digits_net` and `lenet`:
  endpoint   accuracy on the test pictures after the last step; what is chosen (learning rate, the threshold of the
             dormant units) is chosen on validation pictures, part `pilot`. The split is drawn by the seed.
  question   per network, mean over its four cells at density .01 (start x fraction), paired over ten seeds:
             random - magnitude (does it help?), random - placebo (because they are dead?), index - random (or because
             ties sweep the rows in order?). Six comparisons, one Holm family: `FAMILY`.
  then       the same against the other arms (`OTHERS`, six comparisons, a second family), and `FAMILY` cell by cell at
             every density (a third). The arms of the question at density .01 run first, then the others, then
             .005 and .02.
All arms are GGR (vote, growth half by gradient); only the removal differs. Results: results/dead_first.jsonl.
"""
from dataclasses import replace
from functools import cache, partial
from itertools import product

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy

from common import accuracy, digits, equip, recipe, resplit, run_all, seeded, train
from ggr_nb.drop import drop_dead_first, drop_local
from ggr_nb.init import sample
from ggr_nb.methods import METHODS
from ggr_nb.train.data import cifar100
from ggr_nb.train.models import digits_net, lenet

NETWORKS = 'digits_net', 'lenet'                # with BatchNorm, on digits; without, on ten classes of CIFAR-100
DENSITIES, STARTS, SEEDS = (.01, .005, .02), ('uniform', 'erk'), range(10)
SCHEDULES = {.1: .5, .5: .75}                   # first fraction: share of the training in which the masks move
ARMS, MORE = ('magnitude', 'random', 'index', 'placebo'), ('snip', 'by magnitude', 'dormant')
FAMILY = [('random', 'magnitude'), ('random', 'placebo'), ('index', 'random')]
OTHERS = [('random', 'snip'), ('random', 'by magnitude'), ('random', 'dormant')]
RATES, TAU = dict(digits_net=.1, lenet=.1), .1  # chosen by part `pilot`
BATCHES = 4                                     # a weight is dead if none of so many batches gives it a gradient


# --- which weights are dead, and which units dormant ----------------------------------------------------------------

def probes(data, seed, update, batches=BATCHES, batch=64):
    "Training batches that this update may look at."
    some = data.batches('train', batch, 10_000 + update, seed, augment=False)
    return [pair for pair, _ in zip(some, range(batches))]

def look(net, batches, each):
    "Run the network on the batches as in training, leave its statistics alone; `each` sees every loss."
    kept = {n: b.clone() for n, b in net.named_buffers()}
    with torch.enable_grad():
        for x, y in batches: each(cross_entropy(net(x), y))
    for n, b in net.named_buffers(): b.copy_(kept[n])

def dead_weights(net, weights, snap, batches):
    "{layer: bool}: the gradient is exactly zero in every batch, the one of the update included."
    dead = {n: g == 0 for n, g in snap.grads.items()}
    def each(loss):
        for n, g in zip(weights, torch.autograd.grad(loss, list(weights.values()))): dead[n] &= g == 0
    look(net, batches, each)
    return dead

def dormant_weights(net, weights, snap, batches, tau):
    """{layer: bool}: into or out of a dormant unit (Sokar et al. 2023, ReDo): its mean |activation| is at most
    tau times the mean of its layer."""
    sizes, hooks = {}, []
    for name, m in net.named_modules():
        if not isinstance(m, nn.ReLU): continue
        def note(m, i, o, name=name):                                # [batch, units]
            size = o.detach().abs()
            sizes.setdefault(name, []).append(size.mean((2, 3)) if size.ndim == 4 else size)
        hooks.append(m.register_forward_hook(note))
    look(net, batches, lambda loss: None)
    for h in hooks: h.remove()
    units = [torch.cat(s).mean(0) for s in sizes.values()]          # a ReLU behind every layer but the last
    asleep = [u <= tau * u.mean() for u in units]
    found, names = {}, list(weights)
    for i, n in enumerate(names):
        w = snap.masks[n]; marked = torch.zeros_like(w, dtype=torch.bool)
        if i < len(asleep): marked[asleep[i]] = True
        if i:
            inputs = asleep[i - 1]; marked[:, inputs.repeat_interleave(w.shape[1] // len(inputs))] = True
        found[n] = marked
    return found


# --- the removals: `marked` weights first ---------------------------------------------------------------------------

def first(snap, marked, ties):
    "As magnitude removal, but the marked weights go first: by a seeded draw, or by their magnitude."
    scores = {}
    for n, w in snap.weights.items():
        own = torch.rand(w.shape, generator=snap.gen('ties', n)) if ties == 'random' else w.abs()
        scores[n] = torch.where(marked[n], 1e-30 * own, w.abs().clamp(min=1e-20))
    return drop_local(replace(snap, weights=scores))

def as_many(snap, marked):
    "Placebo: in every layer as many active weights as are marked, drawn blindly."
    found = {}
    for n, m in snap.masks.items():
        places = m.flatten().nonzero().flatten(); k = int((marked[n] & m).sum())
        pick = places[sample(len(places), k, snap.gen('placebo', n))]
        found[n] = torch.zeros(m.numel(), dtype=torch.bool).index_fill(0, pick, True).view_as(m)
    return found

def removal(arm, seen, net, data, batches, tau, snap):
    "One arm's removal; what it saw goes into `seen`."
    weights = {n: p for n, p in sparse(net, snap)}
    looks = probes(data, snap.seed, snap.update, batches - 1)
    once = {n: g == 0 for n, g in snap.grads.items()}
    dead = once if arm in ('magnitude', 'snip') else dead_weights(net, weights, snap, looks)
    if arm in ('magnitude', 'snip'): gone = drop_local(snap, arm)
    elif arm == 'index': gone = drop_dead_first(replace(snap, grads={n: (~d).float() for n, d in dead.items()}))
    elif arm == 'placebo': gone = first(snap, as_many(snap, dead), 'random')
    elif arm == 'dormant':
        asleep = dormant_weights(net, weights, snap, looks or probes(data, snap.seed, snap.update, 1), tau)
        gone = first(snap, asleep, 'random')
        seen['dormant'] = seen.get('dormant', []) + [share(asleep, snap)]
        both = {n: asleep[n] & dead[n] for n in dead}; seen['both'] = seen.get('both', []) + [share(both, snap)]
    else: gone = first(snap, dead, 'random' if arm == 'random' else 'magnitude')
    taken = sum(int(dead[n].flatten()[p].sum()) for n, p in gone.items())
    for key, value in dict(fraction=round(snap.fraction, 4), dead=share(dead, snap), dead_once=share(once, snap),
                           taken=round(taken / max(1, sum(map(len, gone.values()))), 4)).items():
        seen[key] = seen.get(key, []) + [value]
    return gone

def sparse(net, snap):
    "The parameters that belong to the layers of the state."
    named = {n.removesuffix('.weight'): p for n, p in net.named_parameters()} | dict(net.named_parameters())
    return [(n, named[n]) for n in snap.masks]

def share(marked, snap):
    "Share of the active weights that is marked."
    active = sum(int(m.sum()) for m in snap.masks.values())
    return round(sum(int((marked[n] & m).sum()) for n, m in snap.masks.items()) / active, 4)


# --- one run --------------------------------------------------------------------------------------------------------

@cache
def small_cifar(classes=10, pool=2):
    "The first classes of CIFAR-100, averaged down to 16x16."
    data = cifar100(rotate=0.)
    some = lambda x, y: (avg_pool2d(x[y < classes].float(), pool).round().byte(), y[y < classes])
    return replace(data, train=some(*data.train), test=some(*data.test), classes=classes, names=data.names[:classes], pad=0)

NETS = dict(digits_net=digits_net, lenet=lambda: lenet(10, input_size=(3, 16, 16)))
EPOCHS = dict(digits_net=12, lenet=4)                           # of 16 and of 62 steps
RHYTHM = dict(digits_net=dict(every=8, warmup=.5), lenet=dict(every=10, warmup=.15))

def work(net, arm, density, init, fraction, seed, lr=None, batches=BATCHES, tau=TAU, epochs=None):
    "One training; accuracy on test and on validation pictures."
    kind, seen = net, {}; epochs = epochs or EPOCHS[kind]
    data, valid = resplit(digits() if kind == 'digits_net' else small_cifar(), seed)
    r = recipe(lr or RATES[kind], epochs, fraction=fraction,
               update_until=SCHEDULES[fraction] * epochs, **RHYTHM[kind])
    net = seeded(NETS[kind], seed)
    method = METHODS['static'] if arm == 'static' else replace(
        METHODS['ggr'], name=f'ggr, {arm}', drop=partial(removal, arm, seen, net, data, batches, tau))
    opt, sparsifier = equip(net, method, r, data, density=density, init=init, weights='unit', seed=seed)
    loss = train(net, opt, data, r, seed)
    return dict(accuracy=accuracy(net, data), valid=accuracy(net, valid), loss=loss, updates=len(sparsifier.history)) | seen

def jobs():
    "Every run, a density and then a seed at a time: whatever is there when it is stopped is paired."
    for kind, seed, init in product(NETWORKS, (100, 101), STARTS):
        cell = dict(part='pilot', net=kind, density=.01, init=init, seed=seed)
        for lr in (.01, .03, .1, .3): yield cell | dict(arm='magnitude', fraction=.1, lr=lr)
        for tau in (.025, .1): yield cell | dict(arm='dormant', fraction=.5, tau=tau, lr=.1)
    for density, arms in (.01, ARMS), (.01, MORE), *((d, ARMS) for d in DENSITIES[1:]):
        for seed, kind, init in product(SEEDS, NETWORKS, STARTS):
            cell = dict(part=kind, net=kind, density=density, init=init, seed=seed)
            for fraction, arm in product(SCHEDULES, arms): yield cell | dict(arm=arm, fraction=fraction)
            if arms == MORE: yield cell | dict(arm='static', fraction=.1)
    for seed, kind in product(SEEDS, NETWORKS):          # is one batch enough to call a weight dead?
        yield dict(part='batches', net=kind, arm='random', density=.01, init='erk', fraction=.5, seed=seed, batches=1)


if __name__ == '__main__': run_all(jobs(), work, 'results/dead_first.jsonl')
