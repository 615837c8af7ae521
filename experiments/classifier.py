"""Does keeping every unit's last weight stop GGR from draining the classifier (nbs/studies/reproduction.ipynb)?

    python experiments/classifier.py      six runs of a minute each; stop and go on at will

The cell of the reduced reproduction in which GGR is last, CIFAR-100, 99 % sparse from ERK, with the two methods that
are not in the paper's grid. Results: results/classifier.jsonl, in the form of results/paper.jsonl.
"""
from common import REDUCED, run_cells
from ggr_nb.paper.sweep import Job


def jobs():
    return [Job('cifar100', 'resnet18', m, .01, 'erk', s, **REDUCED) for s in range(3) for m in ('ggr-connect', 'rigl-connect')]


if __name__ == '__main__': run_cells(jobs(), 'results/classifier.jsonl')
