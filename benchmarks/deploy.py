"""Inference of a deployed VGG16 (58.8 M, 3 % of its weights) against dense, alternating in one run, written to deploy.json.

    python benchmarks/deploy.py [--threads N] [--rounds N]

Two sets of masks: what ten epochs of GGR from ERK made on the part of Tiny-ImageNet (results/vgg16.json, by `benchmarks/gpu.py
vgg16`), and an even 3 %, drawn. The values are drawn: neither time nor size depends on them.
"""
import json, statistics, sys, tempfile, warnings
from pathlib import Path

import torch

from carry import masks_from_text
from turns import alternate, load, machine
from ggr_nb.density import budgets, uniform
from ggr_nb.init import random_masks
from ggr_nb.masks import sparse_parameters
from ggr_nb.train.deploy import deploy, entropy, save_deployed
from ggr_nb.train.models import vgg16_tiny

warnings.filterwarnings('ignore')


def network(masks):
    "Drawn values with the masks multiplied in."
    torch.manual_seed(0); net = vgg16_tiny(200).eval()
    for n, p in sparse_parameters(net).items(): p.data *= masks[n]
    return net


def maskings():
    "{name: masks}: what GGR made of ERK, and an even 3 % as a training from the uniform start begins with."
    trained = masks_from_text(json.loads((Path(__file__).parent.parent/'results/vgg16.json').read_text())['masks'])
    shapes = {n: tuple(m.shape) for n, m in trained.items()}
    return {'GGR from ERK': trained, 'uniform': random_masks(shapes, budgets(shapes, uniform(shapes, .03)))}


def variants(net, masks, x):
    "{name: () -> outputs}, and the tables of choices."
    from copy import deepcopy
    last, half = deepcopy(net).to(memory_format=torch.channels_last), deepcopy(net).bfloat16()
    both = deepcopy(last).bfloat16(); xl = x.to(memory_format=torch.channels_last)
    small, table = deploy(net, masks, x)
    fast, other = deploy(both, masks, xl.bfloat16())
    return {'dense': lambda: net(x), 'channels last': lambda: last(xl), 'bfloat16': lambda: half(x.bfloat16()),
            'bfloat16, channels last': lambda: both(xl.bfloat16()), 'deployed': lambda: small(x), 'deployed, bfloat16': lambda: fast(xl.bfloat16())}, dict(float32=table, bfloat16=other), small


@torch.no_grad()
def main(rounds=9):
    out = dict(machine=machine(load=load()), networks={})
    for kind, masks in maskings().items():
        net, rows = network(masks), []
        for batch in (1, 64):
            x = torch.randn(batch, 3, 64, 64)
            forms, tables, small = variants(net, masks, x)
            took = alternate(forms, rounds, of=lambda t: dict(min=min(t), median=statistics.median(t)))
            error = float((small(x) - net(x)).abs().max() / net(x).abs().max())
            rows.append(dict(batch=batch, seconds=took, error=error, layers=tables))
            print(kind, batch, {n: round(1e3 * t['min'], 1) for n, t in took.items()}, f'error {error:.1g}', flush=True)
        with tempfile.TemporaryDirectory() as folder: size = save_deployed(Path(folder) / 'x', small)
        active, places = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
        least = sum(entropy(m.numel(), int(m.sum())) for m in masks.values())
        others = sum(t.numel() * t.element_size() for n, t in net.state_dict().items() if n not in masks)
        out['networks'][kind] = dict(batches=rows, file=dict(bytes=size, least=least + 4 * active + others, dense=4 * places + others),
                                     densities={n: round(float(m.float().mean()), 4) for n, m in masks.items()})
        print(out['networks'][kind]['file'])
    out['machine']['load_after'] = load()
    (Path(__file__).parent / 'deploy.json').write_text(json.dumps(out, indent=1) + '\n')


if __name__ == '__main__':
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    if '--threads' in args: torch.set_num_threads(int(args['--threads']))
    main(int(args.get('--rounds', 9)))
