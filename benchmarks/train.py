"""What a training step costs, as ratios within one run: switches, masks, updates, images, checkpoints.

    OMP_NUM_THREADS=1 python benchmarks/train.py [switches] [masks] [updates] [shares] [--rounds 5]

switches  bf16, channels-last and the fused optimiser, alone and together, against plain float32, for several networks
masks     a step of GGR at density 0.03 against the dense step, ResNet-18, batch 128, default switches
updates   one update of the masks of ResNet-18 as a share of an epoch of CIFAR-100 (390 steps of batch 128)
shares    making a batch of images, and a checkpoint every five minutes, as shares of the time: what a step waits for
          it, and what the thread beside it takes to write it

Contenders take turns in every round. Work from outside can only make one slower, so each counts with its best round.
The clock is the processor time of this process (one thread, so that waiting threads do not count). Written to
benchmarks/train.json; other parts of it are kept. What a graphics card does is measured by benchmarks/gpu.py.
"""
import argparse, json, tempfile, time
from functools import partial
from pathlib import Path

import torch

from turns import alternate, machine
from ggr_nb.train.data import Data
from ggr_nb.train.machine import Switches, bf16_units, switches
from ggr_nb.methods import METHODS
from ggr_nb.train.models import MODELS
from ggr_nb.train.runs import CheckpointWriter, Recipe
from ggr_nb.train.training import Training

best = partial(alternate, clock=time.process_time)
FILE = Path(__file__).with_suffix('.json')
STEPS = 390                    # an epoch of CIFAR-100
NETS = [('resnet18', 1., 128), ('resnet18', .25, 128), ('mobilenet_v2', 1., 128), ('mobilenet_v2', .35, 128), ('vgg16_tiny', .25, 64), ('mlp', 4., 128), ('digits_net', 1., 64)]


def images(name):
    size = {'vgg16_tiny': (3, 64, 64), 'digits_net': (1, 8, 8)}.get(name, (3, 32, 32))
    x, y = torch.randint(256, (2000, *size), dtype=torch.uint8), torch.randint(100, (2000,))
    c = size[0]
    return Data('random bytes', (x, y), (x[:200], y[:200]), 100, (.5,) * c, (.25,) * c, pad=4 if size[1] > 8 else 1, flip=True)


def training(name, width, batch, chosen, method='dense', density=.03):
    "A `Training` that can do steps, and a batch for it."
    data = images(name)
    net = MODELS[name](num_classes=100, width=width, input_size=tuple(data.train[0].shape[1:]))
    recipe, config = Recipe(batch=batch, lr=1e-3), dict(seed=0, batch_limit=None)
    t = Training(net, data, recipe, config, chosen, [], method=METHODS[method], density=density, seed=0)
    t.model.train(); t.steps = STEPS
    x, y = next(iter(data.batches('train', batch, channels_last=chosen.channels_last)))
    return t, x, y


def stepping(*args, **kw):
    t, x, y = training(*args, **kw)
    def step(): t.train_step(x, y); t.step = 1       # never at an update
    return step


def measure_switches(rounds):
    "Images per second and ratio to plain float32, per network."
    result = []
    ways = {'float32': ('off', False, False, False), '+ fused': ('off', False, True, False), '+ channels-last': ('off', True, True, False),
            'bf16': ('bf16', False, True, False), 'bf16 + channels-last': ('bf16', True, True, False)}
    for name, width, batch in NETS:
        steps = {w: stepping(name, width, batch, Switches('cpu', *flags)) for w, flags in ways.items()}
        t = best(steps, rounds, calls=8 if name in ('digits_net', 'mlp') else 1)
        auto = switches(MODELS[name](num_classes=100, width=width), 'cpu')
        result.append(dict(model=name, width=width, batch=batch, auto=dict(amp=auto.amp, channels_last=auto.channels_last),
                           images_per_second={w: round(batch / s, 1) for w, s in t.items()},
                           ratio={w: round(t['float32'] / s, 3) for w, s in t.items()}))
        print(name, width, batch, result[-1]['ratio'], flush=True)
    return result


def measure_masks(rounds):
    "A masked step over a dense one, and the multiplication alone over the dense step."
    chosen = switches(MODELS['resnet18'](), 'cpu')
    sparse, x, y = training('resnet18', 1., 128, chosen, 'ggr')
    def masked(): sparse.train_step(x, y); sparse.step = 1; sparse.sparsifier.steps = 1
    t = best({'dense': stepping('resnet18', 1., 128, chosen), 'masked': masked}, rounds)
    sparse.train_step(x, y); sparse.sparsifier.steps = 1
    alone = best({'mask': sparse.sparsifier.mask_gradients}, rounds, calls=20)['mask']
    return dict(model='resnet18', batch=128, density=.03, switches=dict(amp=chosen.amp, channels_last=chosen.channels_last),
                ratio=round(t['masked'] / t['dense'], 4), mask_share=round(alone / t['dense'], 5), images_per_second=round(128 / t['dense'], 1))


def measure_updates(rounds):
    "Seconds of an update over seconds of an epoch."
    chosen = switches(MODELS['resnet18'](), 'cpu')
    parts = {m: training('resnet18', 1., 128, chosen, m)[0] for m in ('set', 'rigl', 'dsr', 'snfs', 'ggr')}
    step = best({'step': stepping('resnet18', 1., 128, chosen)}, rounds)['step']
    gen = torch.Generator().manual_seed(0)
    for t in parts.values():
        for p in (layer.weight for layer in t.sparsifier.layers.values()):
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=gen) * p.numel() ** -.5)
            t.optimizer.state[p]['momentum_buffer'] = p.grad.clone()
        t.sparsifier.steps = STEPS
    def update(t):
        def f(): t.sparsifier.update(); t.sparsifier.history.clear()
        return f
    seconds = best({m: update(t) for m, t in parts.items()}, rounds)
    return dict(model='resnet18', batch=128, steps=STEPS, share={m: round(s / (STEPS * step), 6) for m, s in seconds.items()},
                in_steps={m: round(s / step, 3) for m, s in seconds.items()})


def measure_shares(rounds):
    "A batch of images over a step; a checkpoint over a minute."
    chosen = switches(MODELS['resnet18'](), 'cpu')
    t, x, y = training('resnet18', 1., 128, chosen, 'ggr')
    t.train_step(x, y)
    stream = iter(())
    def batch():
        nonlocal stream
        try: next(stream)
        except StopIteration: stream = t.data.batches('train', 128, channels_last=chosen.channels_last); next(stream)
    step = stepping('resnet18', 1., 128, chosen)
    s = best({'step': step}, rounds) | best({'batch': batch}, rounds, calls=40)
    with tempfile.TemporaryDirectory() as folder:
        t.writer, stall, write = CheckpointWriter(Path(folder)/'c.pt'), 1e9, 1e9
        for _ in range(rounds):
            start = time.perf_counter(); t.checkpoint(); stall = min(stall, time.perf_counter() - start)
            t.writer.wait(); write = min(write, time.perf_counter() - start)
        size = t.writer.path.stat().st_size
    return dict(batch_over_step=round(s['batch'] / s['step'], 5), checkpoint_stall=round(stall / t.save_every, 5),
                checkpoint_thread=round(write / t.save_every, 5), checkpoint_bytes=size)


if __name__ == '__main__':
    parts = dict(switches=measure_switches, masks=measure_masks, updates=measure_updates, shares=measure_shares)
    ask = argparse.ArgumentParser()
    ask.add_argument('parts', nargs='*', default=list(parts)); ask.add_argument('--rounds', type=int, default=5)
    args = ask.parse_args()
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in args.parts:
        torch.manual_seed(0)
        entry = dict(machine=machine(bf16_units=bool(bf16_units('cpu'))), command=f'python benchmarks/train.py {name}', result=parts[name](args.rounds))
        found[name] = entry
        print(name, json.dumps(entry['result'])[:1500], flush=True)
        FILE.write_text(json.dumps(found, indent=1) + '\n')
