"""Six new seeds for the questions that three raised (nbs/studies/reproduction.ipynb).

    python experiments/six_more.py      102 runs of a minute each; stop and go on at will

The long recipe of the reduced reproduction (CIFAR-100, all 50,000 images, five epochs) in the cells that clear the
paper's line of 5 %. Seeds 0, 1, 2 were looked at, and the questions come from them; so they have no part in the answer.
Fixed before the first run of seeds 3 to 8:
  endpoint    accuracy on the test images after the last step.
  main        nine comparisons, one Holm family at 5 %, six pairs each: at 90 % a uniform start costs GGR less
              than SET, RigL and DSR; at 90 % from uniform GGR is ahead of each; at 99 % from ERK it is behind each.
  moving      each of the four methods against `static` in each cell: twelve comparisons, a second family.
  classifier  the four comparisons of `experiments/classifier.py`, a third family.
A seed that fails has no score and is left out of its pairs, by name. No seed is added afterwards.
Results: results/six_more.jsonl, in the form of results/paper.jsonl.
"""
from common import REDUCED, run_cells
from ggr_nb.paper.sweep import Job

SEEDS, OTHERS = range(3, 9), ('set', 'rigl', 'dsr')
EVEN, BAD, FEW = (.1, 'erk'), (.1, 'uniform'), (.01, 'erk')         # density and start


def jobs():
    "The three families, one after the other."
    families = (('ggr', *OTHERS), (EVEN, BAD, FEW)), (('static',), (EVEN, BAD, FEW)), (('ggr-connect', 'rigl-connect'), (FEW,))
    return [Job('cifar100', 'resnet18', m, *cell, s, **REDUCED)
            for methods, cells in families for s in SEEDS for cell in cells for m in methods]


if __name__ == '__main__': run_cells(jobs(), 'results/six_more.jsonl')
