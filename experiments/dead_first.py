"""Dead weights first (nbs/studies/dead_weights.ipynb): should an update remove weights without a gradient before small ones?

    python experiments/dead_first.py                 all of it; stop and go on at will
    python experiments/dead_first.py --part lenet    one part: pilot, digits_net, lenet, batches
    python experiments/dead_first.py --quick         does everything run?

Fixed before the first run of the parts `digits_net` and `lenet`, but for one thing: the question was the mean over twelve
cells (the three densities), and was narrowed to four after eleven runs; the page shows both.
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
from functools import partial
from itertools import product

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common import accuracy, digits, equip, recipe, resplit, run_all, seeded, small_cifar, train
from ggr_nb.drop import drop_local, drop_lowest
from ggr_nb.methods import METHODS
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
    "{layer: [n] bool}: the gradient is exactly zero in every batch, the one of the update included."
    dead = {n: l.grads == 0 for n, l in snap.layers.items()}
    def each(loss):
        for n, g in zip(weights, torch.autograd.grad(loss, list(weights.values()))):
            dead[n] &= g.flatten()[snap.layers[n].places] == 0
    look(net, batches, each)
    return dead

def dormant_weights(net, snap, batches, tau):
    """{layer: [n] bool}: into or out of a dormant unit (Sokar et al. 2023, ReDo): its mean |activation| is at
    most tau times the mean of its layer."""
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
    asleep, found = [u <= tau * u.mean() for u in units], {}
    for i, (n, l) in enumerate(snap.layers.items()):
        found[n] = asleep[i][l.places // l.fan] if i < len(asleep) else torch.zeros(len(l.places), dtype=torch.bool)
        if i: found[n] = found[n] | asleep[i - 1][l.places % l.fan // (l.fan // len(asleep[i - 1]))]
    return found


# --- the removals: `marked` weights first ---------------------------------------------------------------------------

def first(snap, marked, ties):
    "As magnitude removal, but the marked weights go first: by a seeded draw, by their place, or by magnitude."
    gone = {}
    for n, l in snap.layers.items():
        size, own = l.values.abs(), torch.arange(len(l.places)) / len(l.places)
        if ties == 'random': own = torch.rand(len(l.places), generator=snap.gen('ties', n))
        if ties == 'magnitude': own = size
        score = torch.where(marked[n], 1e-30 * own, size.clamp(min=1e-20))
        gone[n] = drop_lowest(snap, l, score, round(snap.fraction * len(l.places)))
    return gone

def as_many(snap, marked):
    "Placebo: in every layer as many active weights as are marked, drawn blindly."
    blind = lambda n, m: m[torch.randperm(len(m), generator=snap.gen('placebo', n))]
    return {n: blind(n, m) for n, m in marked.items()}

def removal(arm, seen, net, data, batches, tau, snap):
    "One arm's removal; what it saw goes into `seen`."
    named = {n: p for n, p in net.named_parameters()}
    looks = probes(data, snap.seed, snap.update, batches - 1)
    once = {n: l.grads == 0 for n, l in snap.layers.items()}
    dead = once if arm in ('magnitude', 'snip') else dead_weights(net, {n: named[n] for n in snap.layers}, snap, looks)
    def note(**values):
        for key, value in values.items(): seen.setdefault(key, []).append(round(value, 4))
    if arm in ('magnitude', 'snip'): gone = drop_local(snap, arm)
    elif arm == 'placebo': gone = first(snap, as_many(snap, dead), 'random')
    elif arm == 'dormant':
        asleep = dormant_weights(net, snap, looks or probes(data, snap.seed, snap.update, 1), tau)
        gone = first(snap, asleep, 'random')
        note(dormant=share(asleep), both=share({n: asleep[n] & dead[n] for n in dead}))
    else: gone = first(snap, dead, arm.removeprefix('by '))
    taken = {n: dead[n][torch.isin(snap.layers[n].places, p)] for n, p in gone.items()}
    note(fraction=snap.fraction, dead=share(dead), dead_once=share(once), taken=share(taken))
    return gone

def share(marked):
    "Share of these weights that is marked."
    return sum(int(m.sum()) for m in marked.values()) / max(1, sum(map(len, marked.values())))


# --- one run --------------------------------------------------------------------------------------------------------

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
    opt, sparsifier = equip(net, method, r, data, density=density, init=init, scaling='unit', seed=seed)
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
