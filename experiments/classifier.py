"""Does keeping every unit's last weight stop GGR from draining the classifier (nbs/studies/reproduction.ipynb)?

    python experiments/classifier.py      six runs of a minute each; stop and go on at will

The cell of the reduced reproduction in which GGR is last, CIFAR-100, 99 % sparse from ERK, with the two methods that
are not in the paper's grid. Results: results/classifier.jsonl, in the form of results/paper.jsonl.
"""
from functools import partial

from ggr_nb.paper.demo import cores
from ggr_nb.paper.sweep import Job, run_job
from ggr_nb.paper.sweep import Pool, Results, sweep

REDUCED = dict(epochs=5, width=.25, stem=4, batch=128, updates=10, fraction=.3, augment=False)
JOBS = [Job('cifar100', 'resnet18', m, .01, 'erk', s, **REDUCED) for s in range(3) for m in ('ggr-connect', 'rigl-connect')]

if __name__ == '__main__':
    work = partial(run_job, device='cpu', threads=1)
    print(sweep(JOBS, Results('results/classifier.jsonl'), Pool(work, cores())) or 'done')
