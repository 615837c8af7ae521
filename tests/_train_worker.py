"""A training in a process of its own, because it does not survive, or only within limits. See test_train.py.

    _train_worker.py sigkill FOLDER STEP      kill -9 itself after STEP steps
    _train_worker.py limits FOLDER            a disk that is full, then a memory that is too small
"""
import os, resource, signal, sys

from ggr_nb.train.training import fit
from test_train import SHORT, SET


def sigkill(folder, step):
    def hook(training):
        if training.position != int(step): return
        training.writer.wait()      # what was begun after the step before is on the disk
        os.kill(os.getpid(), signal.SIGKILL)
    fit(*SET, out=folder, save_every=0, each_step=hook, **SHORT)


def full_disk(folder):
    "From step 30 on no file may grow beyond 64 KB: writing fails in the middle, as on a full disk."
    def hook(training):
        if training.position != 30: return
        training.writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    try: fit(*SET, out=folder, save_every=0, each_step=hook, **SHORT)
    except OSError as e: print('DISK', e, sorted(os.listdir(folder)))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def small_memory():
    "One step of a wide network with a batch of everything, in 200 MB more than there is already."
    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
    from dataclasses import replace
    try: fit('digits_net', 'digits', 'ggr', .1, width=8, **SHORT | dict(recipe=replace(SHORT['recipe'], batch=1408)))
    except MemoryError as e: print('MEMORY', e)


if __name__ == '__main__':
    if sys.argv[1] == 'sigkill': sigkill(*sys.argv[2:])
    else: full_disk(sys.argv[2]); small_memory()
