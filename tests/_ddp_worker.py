"""One process of a distributed training; `torchrun` starts two. See test_distributed.py.

    torchrun … _ddp_worker.py FOLDER HOW    HOW: kill:STEP | term:STEP | whole:FOLDERS-TO-RESUME
"""
import os, signal, sys, time
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

import ggr_nb.train.training as train
from ggr_nb.train.training import RECIPES, fit

train.AGREE = 1      # agree at every step: the tests stop at arbitrary ones


def recipe(): return replace(RECIPES['digits'], epochs=3, batch=64, milestones=(2,), update_until=3, every=11, fraction=.3)


def settings(method='ggr'):
    return dict(method=method, density=.1, init='erk', recipe=recipe(), device='cpu', progress=False, seed=5)


def net():
    "Convolutions, dropout-free and without BatchNorm, whose statistics would be those of half a batch."
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def killer(how, step):
    "A hook that ends the training after `step` steps: rank 1 dies at once, or the launcher is asked to stop."
    def hook(training):
        if training.position != step: return
        if how == 'kill' and training.rank == 1: os.kill(os.getpid(), signal.SIGKILL)
        if how == 'term' and training.rank == 0:
            os.kill(os.getppid(), signal.SIGTERM)
            while not training.asked: time.sleep(.01)      # the launcher passes the signal on, sooner or later
    return hook


def everywhere(run):
    "Is the run the same on every process?"
    marks = torch.tensor([float(m.flatten().nonzero().sum()) for m in run.masks.values()]
                         + [v.double().sum().item() for v in run.state.values()] + [run.history[-1]['loss']], dtype=torch.float64)
    other = [torch.zeros_like(marks) for _ in range(dist.get_world_size())]
    dist.all_gather(other, marks)
    return all(torch.equal(marks, o) for o in other)


if __name__ == '__main__':
    folder, (how, _, step) = sys.argv[1], sys.argv[2].partition(':')
    if how == 'whole':
        runs = {m: fit(net(), 'digits', out=f'{folder}/{m}', **settings(m)) for m in ('ggr', 'dsr')}
        for name in filter(None, step.split(',')):
            runs[name] = fit(net(), 'digits', out=f'{folder}/{name}', resume=True, **settings())
        for name, run in runs.items(): assert everywhere(run), f'the ranks disagree: {name}'
        train.train_main('mlp', 'digits', 'set', .1, epochs=1, quiet=True, out=f'{folder}/command', device='cpu')
        try: fit(net(), 'digits', **settings() | dict(recipe=replace(recipe(), batch=65)))
        except ValueError as e: print('refused:', e)
        try: fit(net(), 'digits', **settings() | dict(seed=5 + dist.get_rank()))
        except RuntimeError as e: print('apart:', e)
        dist.barrier()          # a process that ends while the other still sums can abort it
    else:
        hook = killer(how, int(step))
        fit(net(), 'digits', out=f'{folder}/{how}', save_every=0 if how == 'kill' else 1e9, each_step=hook, **settings())
