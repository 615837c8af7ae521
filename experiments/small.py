"""Small-dense: narrow dense networks with as many weights as the demonstration's sparse ones (nbs/beyond/small_dense.ipynb).

    python experiments/small.py      about two minutes; stop and go on at will

Results: results/small.jsonl, one line per run, in the form of the demonstration's.
"""
import torch

from common import run_cells
from ggr_nb.masks import sparse_parameters
from ggr_nb.train.models import digits_net
from ggr_nb.beyond.small_dense import small_width
from ggr_nb.paper.sweep import Job

DENSITIES, SEEDS = (.1, .05, .02, .01, .005), range(10)


def jobs():
    "One run for each density of the figure and each seed."
    with torch.device('meta'): full = sum(p.numel() for p in sparse_parameters(digits_net()).values())
    for d in DENSITIES:
        width = small_width(digits_net, round(d * full))
        yield from (Job('digits', 'digits_net', 'dense', 1., 'dense', seed, width=width) for seed in SEEDS)


if __name__ == '__main__': run_cells(jobs(), 'results/small.jsonl')
