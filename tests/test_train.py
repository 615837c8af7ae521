"""The trainer: the recipe's clock, bit-for-bit resume however it was stopped, faults, and real images."""
import errno, json, math, os, random, re, shutil, signal, subprocess, sys, threading, warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch
from torch import nn

from conftest import forked, untimed
from ggr_nb.sparse import SparseLinear
from ggr_nb.sparsify import Sparsifier
from ggr_nb.train.data import DATASETS, Data, cifar100, digits, tiny_imagenet
from ggr_nb.masks import counts, sparse_parameters
from ggr_nb.train import runs, training
from ggr_nb.methods import METHODS
from ggr_nb.train.models import MODELS
from ggr_nb.train.runs import commit, load_checkpoint, previous, save_checkpoint
from ggr_nb.train.measure import gradient_flow
from ggr_nb.train.training import RECIPES, Recipe, Run, Stopped, build, check_room, evaluate, evaluate_run, fit, switches, train_main

HERE = Path(__file__).parent
RECIPE = replace(RECIPES['digits'], epochs=3, batch=64, milestones=(2,), update_until=3, every=11)      # 22 steps an epoch
SHORT = dict(recipe=RECIPE, device='cpu', progress=False, seed=3)
SET = ('digits_net', 'digits', 'ggr', .05)


def same(a, b):
    "Equal to the last bit: weights, buffers, masks, updates, history."
    assert a.state.keys() == b.state.keys() and all(torch.equal(a.state[k], b.state[k]) for k in a.state)
    for part in ('masks', 'masks_start'):
        assert all(torch.equal(m, getattr(b, part)[k]) for k, m in getattr(a, part).items())
    assert a.updates == b.updates and untimed(a) == untimed(b)
    return True


@pytest.fixture(scope='module')
def whole(): return fit(*SET, **SHORT)


# ---------------------------------------------------------------- the recipe

@pytest.mark.parametrize('name, epochs, drops, until', [('cifar100', 100, (30, 60, 80), 50), ('tiny_imagenet', 200, (60, 120, 160), 100)])
def test_recipes_are_the_papers(name, epochs, drops, until):
    r = RECIPES[name]
    assert (r.epochs, r.batch, r.milestones, r.update_until, r.momentum, r.weight_decay) == (epochs, 128, drops, until, .9, 5e-4)
    assert [r.rate(e) for e in (0, .25, 1, drops[0] - .01)] == pytest.approx([0, .025, .1, .1])
    for i, e in enumerate(drops): assert r.rate(e) == pytest.approx(.1 / 5 ** (i + 1))


@pytest.mark.parametrize('field, bad', [('epochs', 0), ('epochs', 1.5), ('batch', 0), ('lr', 0), ('lr', float('nan')), ('divide', -1),
    ('warmup', -1), ('momentum', 1), ('weight_decay', -1e-4), ('fraction', 1.1), ('every', 0), ('milestones', (5, 3)), ('update_until', -1)])
def test_a_wrong_recipe_names_its_field(field, bad):
    with pytest.raises(ValueError, match=f'recipe: {field} is'): Recipe(**{field: bad})


def test_masks_move_at_the_start_of_epochs_by_the_papers_share():
    r = replace(RECIPES['digits'].scaled(6), update_until=5, fraction=.1)
    run = fit('mlp', 'digits', 'ggr', .1, recipe=r, device='cpu', progress=False)
    assert [u['step'] for u in run.updates] == [22 * e for e in (1, 2, 3, 4)]
    assert [u['fraction'] for u in run.updates] == pytest.approx([.05 * (1 + math.cos(math.pi * (e - 1) / 4)) for e in (1, 2, 3, 4)])


@pytest.mark.parametrize('short', [RECIPES['digits'].scaled(1), replace(RECIPE, update_until=0)])
def test_a_recipe_too_short_for_updates_has_none(short):
    assert fit('mlp', 'digits', 'ggr', .1, **SHORT | dict(recipe=short)).updates == []


def test_the_optimiser_saw_the_rates_of_the_recipe():
    seen = []
    fit('mlp', 'digits', 'static', .2, each_step=lambda t: seen.append(t.optimizer.param_groups[0]['lr']), **SHORT)
    assert seen == pytest.approx([RECIPE.rate(i / 22) for i in range(66)]) and seen[0] == 0 and max(seen) == RECIPE.lr


# ---------------------------------------------------------------- stopped and resumed

class Boom(Exception): pass

def at(step, act):
    def hook(training):
        if training.position == step: act()
    return hook

def boom(): raise Boom


@pytest.mark.parametrize('step', [1, 10, 11, 12, 22, 37, 66])
def test_an_exception_at_any_step_then_resume(tmp_path, whole, step):
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=0, each_step=at(step, boom), **SHORT)
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))


@pytest.mark.parametrize('model, method', [('vgg16_tiny', 'ggr'), ('digits_net', 'dsr'), ('digits_net', 'snfs'), ('digits_net', 'deepr'),
                                           ('digits_net', 'gmp'), ('digits_net', 'dense'), ('mlp', 'rigl')])
def test_every_kind_of_state_is_resumed(tmp_path, model, method):
    "Dropout, DSR's threshold, dense momentum, noise in every step, moving densities, no masks at all."
    big = model.startswith('vgg')
    data = enlarged() if big else 'digits'
    kw = SHORT | dict(width=.02 if big else 1, recipe=replace(RECIPE, epochs=2, update_until=2), batch_limit=6 if big else None)
    if big: kw['recipe'] = replace(kw['recipe'], every=3, batch=32)
    straight = fit(model, data, method, .2, **kw)
    with pytest.raises(Boom): fit(model, data, method, .2, out=tmp_path, save_every=0, each_step=at(8 if big else 30, boom), **kw)
    assert same(straight, fit(model, data, method, .2, out=tmp_path, resume=True, **kw))
    assert METHODS[method].dynamic == bool(straight.updates)


def enlarged():
    "The digits at 16×16, the least that a VGG takes."
    d = digits().part(train=200, test=100)
    grow = lambda held: (held[0].repeat_interleave(2, 2).repeat_interleave(2, 3), held[1])
    return replace(d, train=grow(d.train), test=grow(d.test))


def test_sigkill_then_resume(tmp_path, whole):
    assert worker(sigkill, tmp_path, 29) == (-signal.SIGKILL, [])
    assert load_checkpoint(tmp_path/'checkpoint.pt')['step'] == 28 - 22
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['history.jsonl', 'run.json', 'run.pt']


def worker(target, *arguments):
    "(how it ended, what it said): a training in a process of its own, because it does not survive, or only within limits."
    here, there = forked.Pipe()
    process = forked.Process(target=target, args=(*arguments, there)); process.start(); there.close()
    said = []
    with suppress(EOFError, ConnectionResetError):
        while True: said.append(here.recv())
    process.join()
    return process.exitcode, said


def sigkill(folder, step, said):
    def hook(training):
        if training.position != step: return
        training.writer.wait()      # what was begun after the step before is on the disk
        os.kill(os.getpid(), signal.SIGKILL)
    fit(*SET, out=folder, save_every=0, each_step=hook, **SHORT)


def limits(folder, said):
    "From step 30 on no file may grow beyond 64 KB: writing fails in the middle, as on a full disk. Then one step with a batch of everything, in 200 MB more than there is."
    import resource
    torch.set_num_threads(1); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def hook(training):
        if training.position != 30: return
        training.writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    try: fit(*SET, out=folder, save_every=0, each_step=hook, **SHORT)
    except OSError as e: said.send(str(e))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
    try: fit('digits_net', 'digits', 'ggr', .1, width=8, **SHORT | dict(recipe=replace(SHORT['recipe'], batch=1408)))
    except MemoryError as e: said.send(str(e))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_between_steps(tmp_path, whole, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(number)
    with pytest.raises(Stopped, match='epoch 2 of 3, after step 5 of 22.*resume=True'):
        fit(*SET, out=tmp_path, each_step=at(27, lambda: os.kill(os.getpid(), number)), **SHORT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(number)) == handlers
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))


def test_a_hook_can_stop(tmp_path, whole):
    def enough(training): training.asked.append('enough') if training.position == 30 else None
    with pytest.raises(Stopped, match='after step 8 of 22'): fit(*SET, out=tmp_path, each_step=enough, **SHORT)
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))


def test_a_second_ctrl_c_is_not_held_back():
    def twice(): os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as e: fit(*SET, each_step=at(5, twice), **SHORT)
    assert not isinstance(e.value, Stopped)


def test_without_a_folder_the_farewell_says_so():
    with pytest.raises(Stopped, match='Nothing was saved'):
        fit(*SET, each_step=at(3, lambda: os.kill(os.getpid(), signal.SIGINT)), **SHORT)


def test_a_thread_can_train(whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(*SET, **SHORT)))
    thread.start(); thread.join()
    assert same(whole, found[0])


def test_a_finished_run_is_returned_at_once(tmp_path, whole):
    fit(*SET, out=tmp_path, **SHORT)
    assert same(whole, fit(*SET, out=tmp_path, resume=True, each_step=lambda t: boom(), **SHORT))
    with pytest.raises(FileExistsError, match='resume=True'): fit(*SET, out=tmp_path, **SHORT)
    again = fit(*SET, out=tmp_path, resume=True, **SHORT)
    net = MODELS['digits_net']()
    own = fit(net, 'digits', *SET[2:], out=tmp_path/'own', **SHORT)
    fresh = MODELS['digits_net']()
    fit(fresh, 'digits', *SET[2:], out=tmp_path/'own', resume=True, **SHORT)
    assert all(torch.equal(v, own.state[k]) for k, v in fresh.state_dict().items()) and same(whole, again)


@pytest.mark.parametrize('change', [dict(density=.06), dict(seed=4), dict(method='set'), dict(recipe=replace(RECIPE, lr=.05)), dict(exclude='fc2.weight')])
def test_another_run_in_the_folder_is_refused(tmp_path, change):
    base = dict(zip(('model', 'data', 'method', 'density'), SET)) | SHORT | dict(out=tmp_path)
    with pytest.raises(Stopped): fit(**base, each_step=at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(ValueError, match='holds another run.*there.*here'): fit(**base | change, resume=True)


def test_masks_of_ones_own_train_and_resume_and_others_are_refused(tmp_path):
    net = MODELS['digits_net']()
    shapes = {n: p.shape for n, p in net.named_parameters() if p.ndim > 1}
    assert max(map(torch.Size.numel, shapes.values())) > 10_000          # too much for a line of text
    gen = torch.Generator().manual_seed(0)
    mine, other = ({n: torch.rand(s, generator=gen) < .1 for n, s in shapes.items()} for _ in range(2))
    base = dict(model='digits_net', data='digits', method='static', masks=mine, out=tmp_path) | SHORT
    with pytest.raises(Stopped): fit(**base, each_step=at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(ValueError, match='holds another run.*masks'): fit(**base | dict(masks=other), resume=True)
    run = fit(**base, resume=True)
    assert all(torch.equal(run.masks[n], mine[n]) for n in mine) and json.loads((tmp_path/'run.json').read_text())['config']['masks'].keys() == mine.keys()


# ---------------------------------------------------------------- nothing from outside

def test_global_generators_neither_matter_nor_change(whole):
    torch.manual_seed(99); before = torch.get_rng_state()
    again = fit(*SET, **SHORT)
    assert torch.equal(before, torch.get_rng_state()) and same(whole, again)


def test_the_seed_matters(whole):
    other = fit(*SET, **SHORT | dict(seed=4))
    assert not torch.equal(whole.state['fc1.weight'], other.state['fc1.weight'])
    assert any(not torch.equal(m, other.masks_start[n]) for n, m in whole.masks_start.items())


def test_measuring_changes_nothing(whole):
    def norm(t, masks=None): return math.sqrt(gradient_flow(t.model, *t.held_out(), masks))
    def look(record, training): record['again'] = norm(training, training.sparsifier.masks); training.evaluate()
    def peek(training): norm(training) if training.step % 5 == 0 else None
    run = fit(*SET, each_epoch=look, each_step=peek, **SHORT)
    assert all(torch.equal(v, whole.state[k]) for k, v in run.state.items())
    assert [h['again'] for h in run.history] == [h['gradient_norm'] for h in whole.history]


# ---------------------------------------------------------------- what a run tells

def test_history_against_a_count_by_hand(whole):
    assert len(whole.updates) == 5 and len(whole.history) == 3
    size = {n: m.numel() for n, m in whole.masks.items()}
    last = whole.history[-1]
    assert last['counts'] == counts(whole.masks) and sum(last['counts'].values()) == round(.05 * sum(size.values()))
    assert all(sum(h['counts'].values()) == sum(last['counts'].values()) for h in whole.history)
    uses = {'conv1.weight': 64, 'conv2.weight': 64, 'conv3.weight': 16, 'fc1.weight': 1, 'fc2.weight': 1}
    assert last['flops'] == 2 * sum(uses[n] * c for n, c in last['counts'].items())
    explored = [h['exploration'] for h in whole.history]
    assert explored == sorted(explored) and explored[-1] >= sum(int((m | whole.masks_start[n]).sum()) for n, m in whole.masks.items()) / sum(size.values())
    for n, m in whole.masks.items(): assert torch.equal(whole.state[n] != 0, m & (whole.state[n] != 0)), n
    assert all(h['gradient_norm'] > 0 and math.isfinite(h['gradient_norm']) for h in whole.history)


def test_a_run_tells_all_that_it_may_depend_on(whole):
    assert set(vars(whole)) == {'config', 'history', 'updates', 'masks_start', 'masks', 'state', 'versions', 'hardware', 'commit', 'seconds'}
    assert set(whole.config) >= {'model', 'width', 'method', 'density', 'init', 'seed', 'scaling', 'recipe', 'data', 'images', 'augment', 'batch_limit', 'switches', 'val', 'classes', 'image'}
    assert all(set(h) == {'epoch', 'loss', 'train_accuracy', 'test_loss', 'accuracy', 'lr', 'density', 'counts', 'flops', 'exploration', 'gradient_norm', 'seconds'}
               for h in whole.history)
    assert set(whole.versions) == {'ggr_nb', 'python', 'torch', 'torchvision'} and set(whole.hardware) == {'device', 'threads', 'processes'}
    assert 0 < whole.seconds == whole.history[-1]['seconds']


def test_a_run_that_goes_on_elsewhere_says_who_trained_from_which_step_on(tmp_path, monkeypatch):
    "The same code on the same device leaves no trace; a checkpoint from before there were trails is continued, and says that it does not know."
    device = training.hardware('cpu')['device']
    def stopped_and_continued(name, then, trail=True):
        how, path = SHORT | dict(out=tmp_path/name, resume=True), tmp_path/name/'checkpoint.pt'
        monkeypatch.setattr(training, 'commit', lambda: 'one')
        with pytest.raises(Stopped): fit(*SET, each_step=lambda t: t.position == 30 and t.asked.append(2), **how)
        if not trail: save_checkpoint(path, {k: v for k, v in load_checkpoint(path).items() if k != 'trail'}); previous(path).unlink()
        monkeypatch.setattr(training, 'commit', lambda: then)
        return fit(*SET, **how).hardware.get('trail')
    two = dict(commit='two', device=device, step=30)
    assert stopped_and_continued('same', 'one') is None
    assert stopped_and_continued('newer', 'two') == [dict(commit='one', device=device, step=0), two]
    assert stopped_and_continued('older', 'two', trail=False) == [dict(commit=None, device=None, step=0), two]


def test_a_copy_without_its_history_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.ggr_nb, '__file__', str(tmp_path/'ggr_nb/__init__.py'))
    assert commit() is None
    monkeypatch.setenv('GGR_COMMIT', 'abc'); assert commit() == 'abc'


def test_the_commit_is_that_of_the_library():
    head = subprocess.run(['git', '-C', str(HERE.parent), 'rev-parse', 'HEAD'], capture_output=True, text=True)
    import ggr_nb
    if head.returncode or Path(ggr_nb.__file__).parent.parent != HERE.parent: pytest.skip('the library is not a file of this repository')
    assert commit().removesuffix('-dirty') == head.stdout.strip()


def test_results_do_not_make_the_code_dirty(tmp_path, monkeypatch):
    "A growing file of results leaves the commit clean; a changed module does not; outside git there is none."
    import ggr_nb
    for name in ('ggr_nb/__init__.py', 'ggr_nb/masks.py', 'results/a.jsonl'):
        (tmp_path/name).parent.mkdir(exist_ok=True); (tmp_path/name).write_text('1\n')
    monkeypatch.setattr(ggr_nb, '__file__', str(tmp_path/'ggr_nb/__init__.py'))
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert commit() is None
    for words in (['init', '-q'], ['add', '-A'], ['-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-qm', 'all']):
        subprocess.run(['git', *words], cwd=tmp_path, check=True)
    clean = commit(); assert re.fullmatch('[0-9a-f]{40}', clean)
    (tmp_path/'results/a.jsonl').write_text('2\n'); assert commit() == clean
    (tmp_path/'ggr_nb/masks.py').write_text('2\n'); assert commit() == clean + '-dirty'



def test_a_disk_that_is_full_at_the_end_costs_no_checkpoint(tmp_path, monkeypatch, whole):
    "The finished run cannot be written: the last checkpoint stays, and the same call goes on once there is room."
    sound = Run.save
    def full(self, path): monkeypatch.setattr(os, 'fsync', lambda handle: (_ for _ in ()).throw(OSError(28, 'No space left on device'))); sound(self, path)
    monkeypatch.setattr(Run, 'save', full)
    with pytest.raises(OSError, match='run.pt was not written: No space left.*resume=True'): fit(*SET, out=tmp_path, save_every=0, **SHORT)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint.previous.pt', 'checkpoint.pt', 'history.jsonl']
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))


def test_accuracy_is_that_of_the_saved_weights(whole):
    net, data = MODELS['digits_net'](), digits()
    net.load_state_dict(whole.state); net.eval()
    x, y = next(iter(data.batches('test', len(data.test[1]))))
    assert whole.accuracy == pytest.approx(100 * (net(x).argmax(1) == y).float().mean().item(), abs=1e-4)
    assert whole.accuracy == whole.history[-1]['accuracy']


def test_a_run_survives_the_disk(tmp_path, whole):
    whole.save(tmp_path/'run.pt')
    assert same(whole, Run.load(tmp_path/'run.pt'))
    line = whole.to_json()
    back = json.loads(line)
    assert '\n' not in line and back['config'] == whole.config and back['history'] == whole.history and back['accuracy'] == whole.accuracy
    assert back['config']['recipe']['lr'] == RECIPE.lr and back['versions']['torch'] == str(torch.__version__) and back['seconds'] > 0


def test_what_a_hook_adds_is_kept_as_numbers_or_refused_after_the_first_epoch(tmp_path):
    def add(record, training): record.update(tensor=torch.ones(2), share=np.float64(.25), count=np.int64(3), lost=float('nan'))
    run = fit('mlp', 'digits', 'set', .1, out=tmp_path/'a', each_epoch=add, **SHORT)
    kept = Run.load(tmp_path/'a').history[0]
    assert [kept[k] for k in ('tensor', 'share', 'count', 'lost')] == [[1, 1], .25, 3, None]
    assert [json.loads(l, parse_constant=lambda c: pytest.fail(c)) for l in (tmp_path/'a/history.jsonl').read_text().splitlines()] == run.history
    assert json.loads((tmp_path/'a/run.json').read_text(), parse_constant=lambda c: pytest.fail(c))['history'] == run.history
    for bad in ({1, 2}, object(), torch.zeros(20_000)):
        seen = []
        with pytest.raises(TypeError, match='record of each_epoch holds'):
            fit('mlp', 'digits', 'set', .1, each_epoch=lambda record, t: (seen.append(1), record.update(bad=bad)), **SHORT)
        assert len(seen) == 1      # at once, not at the end


def test_own_module_is_trained_in_place_and_named():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = net[1].weight.detach().clone()
    run = fit(net, digits(), 'static', .5, **SHORT)
    assert run.config['model'] == 'Sequential' and not torch.equal(before, net[1].weight)
    assert torch.equal(run.state['1.weight'], net[1].weight) and run.accuracy > 60


def test_the_gradient_norm_is_the_length_that_backward_finds():
    "One definition for the trainer and the measures: the length over active weights and all that is dense."
    net, seen = MODELS['digits_net'](), {}
    def last(record, training): seen.update(masks=training.masks(), at=training.held_out(), state={k: v.clone() for k, v in training.model.state_dict().items()})
    run = fit(net, 'digits', 'ggr', .05, each_epoch=last, **SHORT)
    net.load_state_dict(seen['state']); net.eval(); net.zero_grad()
    x, y = seen['at']
    nn.functional.cross_entropy(net(x), y).backward()
    square = sum((p.grad * seen['masks'].get(n, 1)).double().square().sum().item() for n, p in net.named_parameters())
    assert run.history[-1]['gradient_norm'] == pytest.approx(math.sqrt(square), rel=1e-5)


# ---------------------------------------------------------------- faults

def test_a_damaged_checkpoint_is_found_and_the_one_before_used(tmp_path, whole):
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=0, each_step=at(40, boom), **SHORT)
    path = tmp_path/'checkpoint.pt'
    newer, older = load_checkpoint(path), load_checkpoint(previous(path))
    assert (newer['epoch'], newer['step'], older['step']) == (1, 17, 16)
    raw = bytearray(path.read_bytes()); raw[len(raw) // 3] ^= 4; path.write_bytes(raw)
    with pytest.warns(UserWarning, match='damaged.*Going on from checkpoint.previous.pt'):
        again = fit(*SET, out=tmp_path, resume=True, **SHORT)
    assert same(whole, again)


@pytest.mark.parametrize('cut', [0, 5, 40, 5000])
def test_truncated_checkpoints(tmp_path, cut):
    path = tmp_path/'c.pt'
    for step in (1, 2): save_checkpoint(path, dict(step=step, w=torch.arange(3000.)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.warns(UserWarning, match='damaged'): assert load_checkpoint(path)['step'] == 1
    save_checkpoint(path, dict(step=3)); assert load_checkpoint(previous(path)) ['step'] == 1      # the sound one was not pushed out
    for p in (path, previous(path)): p.write_bytes(b'?')
    with pytest.raises(ValueError, match='damaged'): load_checkpoint(path)


def test_a_crash_between_the_two_renames(tmp_path, whole):
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=0, each_step=at(40, boom), **SHORT)
    (tmp_path/'checkpoint.pt').unlink()
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'evil'),)
    save_checkpoint(tmp_path/'c.pt', dict(x=Evil()))
    with pytest.raises(Exception, match='[Ww]eights'): load_checkpoint(tmp_path/'c.pt')
    assert not (tmp_path/'evil').exists()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits are set the Linux way')
def test_full_disk_and_small_memory(tmp_path, whole):
    _, (disk, memory) = worker(limits, tmp_path)
    assert 'checkpoint.pt was not written' in disk and 'resume=True' in disk
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint.previous.pt', 'checkpoint.pt', 'history.jsonl']
    assert load_checkpoint(tmp_path/'checkpoint.pt')['step'] == 29 - 22
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))
    assert 'digits_net with batch 1408' in memory and 'smaller batch' in memory


@pytest.mark.parametrize('change, message', [
    (dict(model='resnet19'), "unknown model 'resnet19', did you mean 'resnet18'"),
    (dict(data='digit'), "did you mean 'digits'"), (dict(method='riggl'), "did you mean 'rigl'"),
    (dict(init='erkk'), 'erk'), (dict(recipe='cifar10'), "did you mean 'cifar100'"), (dict(density=0.), '0'), (dict(density=1.01), '1.01'),
    (dict(density=-.1), '-0.1'), (dict(density=float('nan')), 'nan'), (dict(density=1e-6), 'densit'), (dict(model='resnet18', data='digits', width=0), 'width'),
    (dict(exclude='fc9.*'), 'fc9'), (dict(recipe=replace(RECIPE, batch=5000)), '5000'), (dict(recipe=replace(RECIPE, schedule='cosin')), 'cosin'),
    (dict(batch_limit=0), 'batch_limit'), (dict(model=MODELS['digits_net'](num_classes=100)), '10 classes'),
    (dict(model=MODELS['lenet']()), 'does not take the images of digits'), (dict(model=nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))), 'no weight')])
def test_mistakes_are_named_before_any_work(tmp_path, change, message):
    base = dict(zip(('model', 'data', 'method', 'density'), SET)) | SHORT | dict(out=tmp_path/'new', each_step=lambda t: pytest.fail('it trained'))
    with pytest.raises(ValueError, match=message): fit(**base | change)


def test_unknown_options_and_labels():
    with pytest.raises(TypeError, match='desnity'): fit(*SET, **SHORT, desnity=3)
    d = digits()
    with pytest.raises(ValueError, match='labels run from 0 to 12'): replace(d, train=(d.train[0], d.train[1].clone().index_fill_(0, torch.tensor([4]), 12)))


@pytest.mark.parametrize('name', ['file/run', 'loop', 'loop/run', 'gone', 'gone/run', 'n' * 300], ids=lambda n: n[:8])
def test_a_folder_that_cannot_be_written(tmp_path, name):
    (tmp_path/'file').write_text('')
    for link, to in dict(loop='loop', gone='nowhere').items(): (tmp_path/link).symlink_to(to)
    with pytest.raises(OSError, match='cannot write to.*another out='): fit(*SET, out=tmp_path/name, **SHORT)


@pytest.mark.parametrize('more', [{}, dict(optimizer='adamw', lr=1e-3, ema=.9)], ids=['sgd', 'adamw, ema'])
def test_a_disk_without_room_for_the_checkpoints_is_told_before_the_first_step(tmp_path, monkeypatch, more):
    "What is asked for is what the folder takes when it is fullest; of a run that goes on, what it has written counts as room."
    how, peak, asked, trained = SHORT | dict(recipe=replace(RECIPE, **more)), [], [], []
    move = lambda a, b, real=os.replace: (peak.append(sum(p.stat().st_size for p in (tmp_path/'all').iterdir())), real(a, b))[1]
    monkeypatch.setattr(os, 'replace', move)
    fit('mlp', 'digits', 'ggr', .1, out=tmp_path/'all', save_every=0, width=4, **how)
    for free in (0, 10**9):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=free))
        try: fit('mlp', 'digits', 'ggr', .1, out=tmp_path/str(free), each_step=lambda t: trained.append(t.step), width=4, **how)
        except OSError as e:
            assert e.errno == errno.ENOSPC
            asked.append(float(re.search(r'room for 0.0 MB, and the checkpoints of this training take ([\d.]+). Make room', str(e))[1]))
        assert bool(trained) == bool(free) == (tmp_path/str(free)/'run.pt').exists()
    assert .95 < asked[0] / (max(peak) / 1e6) < 1.1
    (tmp_path/'0'/'checkpoint.pt').write_bytes(bytes(max(peak) + 10**6))
    check_room(tmp_path/'0', build('mlp', digits(), width=4), how['recipe'])


def test_divergence_is_said_and_the_checkpoint_kept(tmp_path):
    with pytest.raises(FloatingPointError, match='smaller lr|[Ll]ower the learning rate'):
        fit('mlp', 'digits', 'static', 1., out=tmp_path, save_every=0, **SHORT | dict(recipe=replace(RECIPE, lr=1e12, warmup=0)))


# ---------------------------------------------------------------- the command

def test_train_main(tmp_path, capsys):
    kw = dict(model='digits_net', data='digits', method='set', density=.1, epochs=2, quiet=True, out=str(tmp_path/'a'), device='cpu')
    run = train_main(**kw)
    assert run.config["recipe"]["milestones"] == [.6, 1.2, 1.6] and f'test {run.accuracy:.2f} %' in capsys.readouterr().out
    assert json.loads((tmp_path/'a/run.json').read_text()) == json.loads(run.to_json())
    with pytest.raises(FileExistsError, match='already holds run.pt'): train_main(**kw)
    assert same(run, train_main(**kw, resume=True))


def test_train_main_says_what_is_wrong_in_one_line(tmp_path):
    kw = dict(model='digits_net', data='digits', density=.1, quiet=True, out=str(tmp_path/'a'))
    for change, word in ((dict(data='digitz'), 'digits'), (dict(epochs=0), 'epochs is 0'), (dict(density=2.), '2.0'), (dict(batch=10**6), '1000000'),
                         (dict(data='cifar100', root=str(tmp_path)), 'cifar-100-python')):
        with pytest.raises((ValueError, FileNotFoundError), match=word) as e: train_main(**kw | change)
        assert '\n' not in str(e.value) or 'root' in change
    with pytest.raises(Stopped, match='resume'): train_main(**kw, epochs=2, each_step=at(3, lambda: os.kill(os.getpid(), signal.SIGINT)))


COMMAND = dict(model='digits_net', data='digits', method='set', density=.1, epochs=1, quiet=True, device='cpu')


@pytest.mark.parametrize('words, found', [
    (dict(amp='on'), dict(switches=dict(amp='bf16'))), (dict(amp='off'), dict(switches=dict(amp='off'))), (dict(amp=True), dict(switches=dict(amp='bf16'))), (dict(amp='fp16'), dict(switches=dict(amp='fp16'))),
    (dict(channels_last='off'), dict(switches=dict(channels_last=False))), (dict(channels_last='auto'), dict(switches=dict(channels_last=True))),
    (dict(fused='off'), dict(switches=dict(fused=False))), (dict(fused='auto'), dict(switches=dict(fused=True))),
    (dict(compile='on'), dict(switches=dict(compile=True))), (dict(compile='auto'), dict(switches=dict(compile=False))),
    (dict(scaling='unit'), dict(scaling='unit')), (dict(batch_limit=3), dict(batch_limit=3)), (dict(grad_batches=2), dict(grad_batches=2)),
    (dict(exclude='conv1*,fc2*'), dict(exclude=['conv1*', 'fc2*'])), (dict(width=.5), dict(width=.5)), (dict(seed=4), dict(seed=4)),
    (dict(batch=32, lr=.01), dict(recipe=dict(batch=32, lr=.01))), (dict(device=None, exclude=None), dict(switches=dict(device='cpu')))])
def test_what_a_command_asks_for_reaches_the_run(tmp_path, monkeypatch, words, found):
    compiled = []
    monkeypatch.setattr(torch, 'compile', lambda net, **how: compiled.append(how) or net)
    if 'device' in words: monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    config = train_main(**COMMAND | dict(batch_limit=2) | words, out=str(tmp_path/'run')).config
    for key, value in found.items():
        assert {k: config[key][k] for k in value} == value if isinstance(value, dict) else config[key] == value
    assert bool(compiled) == config['switches']['compile']


def test_a_command_that_asks_for_nothing_gets_the_defaults(tmp_path):
    "What `fit` would have chosen: no word of the terminal is in the way."
    run = train_main(**COMMAND, out=str(tmp_path/'a'))
    own = fit('digits_net', 'digits', 'set', .1, recipe=RECIPES['digits'].scaled(1), device='cpu', progress=False)
    assert run.config == own.config and same(run, own)


def test_weights_and_dense_layers_of_a_command_are_real(tmp_path):
    run = train_main(**COMMAND, scaling='unit', exclude='conv1*', out=str(tmp_path/'a'))
    plain = train_main(**COMMAND, exclude='conv1*', out=str(tmp_path/'b'))
    assert 'conv1.weight' not in run.masks and not torch.equal(run.state['fc1.weight'], plain.state['fc1.weight'])
    assert run.masks_start['fc1.weight'].equal(plain.masks_start['fc1.weight'])


@pytest.mark.parametrize('seconds, written', [(0, 22), (1e9, 0)])
def test_save_every_sets_the_pace_of_checkpoints(tmp_path, monkeypatch, seconds, written):
    steps = []
    monkeypatch.setattr(runs.CheckpointWriter, '_write', lambda self, state: steps.append(state['step']))
    train_main(**COMMAND, save_every=seconds, out=str(tmp_path/'a'))
    assert len(steps) == written


@pytest.mark.parametrize('words, message', [(dict(amp='fast'), "unknown amp 'fast'.*auto, on, off, bf16, fp16"), (dict(compile='onn'), "did you mean 'on'"),
    (dict(channels_last='1'), 'channels_last'), (dict(scaling='units'), 'unit'), (dict(batch_limit=0), 'batch_limit is 0'), (dict(save_every=-1.), 'save_every is -1'),
    (dict(save_every=float('nan')), 'save_every is nan'), (dict(exclude='fc9*'), 'fc9'), (dict(grad_batches=0), 'grad_batches'), (dict(width=-1.), 'width'), (dict(device='tpu'), 'tpu')])
def test_wrong_switches_are_one_line(tmp_path, words, message):
    with pytest.raises(ValueError, match=message) as e: train_main(**COMMAND | words, out=str(tmp_path/'a'))
    assert '\n' not in str(e.value)


def test_a_log_gets_one_line_an_epoch(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, 'ipykernel', raising=False)      # where a notebook ran, a bar is right
    fit(*SET, **SHORT | dict(progress=True, recipe=replace(RECIPE, epochs=2)))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[1].startswith('epoch 2/2: ')
    for word in ('loss', 'train', 'test', 'density 0.05', 'images/s'): assert word in lines[1], word


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    fit(*SET, **SHORT | dict(progress=True, recipe=replace(RECIPE, epochs=2)))
    said = capsys.readouterr().err
    for word in ('epoch 2/2', 'loss', 'test', 'density 0.05', 'images/s', '100%'): assert word in said, word
    assert 'epoch 2/2: loss' not in said


# ---------------------------------------------------------------- switches

def test_default_switches(monkeypatch):
    monkeypatch.setattr('ggr_nb.train.machine.bf16_units', lambda device: True)
    assert switches(MODELS['resnet18'](), 'cpu').amp == switches(MODELS['mobilenet_v2'](), 'cpu').amp == 'bf16'
    assert switches(MODELS['mobilenet_v2'](width=.35), 'cpu').amp == 'off'
    assert switches(MODELS['digits_net'](), 'cpu').amp == switches(MODELS['resnet18'](), 'cpu', amp=False).amp == 'off'
    assert switches(MODELS['mobilenet_v2'](), 'cpu').channels_last and not switches(MODELS['resnet18'](), 'cpu', steps=10**6).compile
    monkeypatch.setattr('ggr_nb.train.machine.bf16_units', lambda device: False)
    assert switches(MODELS['resnet18'](), 'cpu').amp == 'off'


@pytest.mark.parametrize('card, amp', [((9, 0), 'bf16'), ((8, 0), 'bf16'), ((7, 5), 'fp16'), ((7, 0), 'fp16'), ((6, 1), 'off')])
def test_a_card_without_bf16_calculates_in_fp16(monkeypatch, card, amp):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: card)
    chosen = switches(MODELS['digits_net'](), 'cuda', steps=9999)
    assert (chosen.amp, chosen.compile, chosen.tf32, chosen.benchmark) == (amp, False, True, True)
    assert switches(MODELS['digits_net'](), 'cuda', steps=10_000).compile
    assert switches(MODELS['digits_net'](), 'cuda', amp=True).amp == ('bf16' if card >= (8, 0) else 'fp16')


def test_grouped_convolutions_stay_in_float32_on_a_card(monkeypatch):
    "Measured: an H100 trains MobileNetV2 half as fast with bf16 and channels-last (benchmarks/gpu.json)."
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    grouped, plain = (switches(MODELS[name](), 'cuda') for name in ('mobilenet_v2', 'resnet18'))
    assert (grouped.amp, grouped.channels_last, plain.amp, plain.channels_last) == ('off', False, 'bf16', True)
    asked = switches(MODELS['mobilenet_v2'](), 'cuda', amp='bf16', channels_last=True)
    assert (asked.amp, asked.channels_last) == ('bf16', True)


def test_layout_and_fusing_change_nothing_but_rounding():
    a = fit(*SET, **SHORT | dict(channels_last=False, batch_limit=3))
    b = fit(*SET, **SHORT | dict(channels_last=True, batch_limit=3))
    assert a.config['switches']['channels_last'] is False and b.config['switches']['channels_last'] is True
    for n in a.state: torch.testing.assert_close(a.state[n], b.state[n], rtol=1e-2, atol=2e-3)
    c = fit(*SET, **SHORT | dict(fused=False, batch_limit=3))
    assert b.config['switches']['fused'] is True and c.config['switches']['fused'] is False
    for n in b.state: torch.testing.assert_close(b.state[n], c.state[n], rtol=1e-2, atol=2e-3)


# ---------------------------------------------------------------- a loss that is no number

def broken(step):
    "A hook that makes a weight NaN after a step."
    def hook(training):
        if training.position == step:
            with torch.no_grad(): training.model.fc1.weight[0, 0] = float('nan')
        assert training.position <= step, 'it trained on'
    return hook


def test_a_nan_loss_ends_the_run_at_its_step(tmp_path):
    with pytest.raises(FloatingPointError, match='loss of step 21 is nan.*smaller lr'): fit(*SET, out=tmp_path, each_step=broken(20), **SHORT)
    assert not list(tmp_path.glob('*.pt'))


def test_nothing_after_a_nan_is_saved(tmp_path, whole):
    "Not by the clock, and not because somebody asks to stop in that very moment."
    with pytest.raises(FloatingPointError, match='after step 20 fc1.weight is not finite'):
        fit(*SET, out=tmp_path, save_every=0, each_step=broken(20), **SHORT)
    state = load_checkpoint(tmp_path/'checkpoint.pt')
    assert state['step'] == 19 and all(v.isfinite().all() for v in state['model'].values())
    def stop(training): broken(20)(training); training.asked.append('stop') if training.position == 20 else None
    with pytest.raises(FloatingPointError): fit(*SET, out=tmp_path, resume=True, each_step=stop, **SHORT)
    assert load_checkpoint(tmp_path/'checkpoint.pt')['step'] == 19
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))


# ---------------------------------------------------------------- one folder, one process

def test_a_folder_in_use_is_refused_and_left_alone(tmp_path, whole):
    said = []
    def second(training):
        if training.position != 30: return
        with pytest.raises(BlockingIOError, match=f'in use by process {os.getpid()} since 20') as e: fit(*SET, out=tmp_path, resume=True, **SHORT)
        said.append(str(e.value))
    assert same(whole, fit(*SET, out=tmp_path, each_step=second, **SHORT)) and len(said) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ['history.jsonl', 'run.json', 'run.pt']


def test_a_killed_process_holds_nothing_and_its_orphans_are_swept(tmp_path, whole):
    assert worker(sigkill, tmp_path, 12) == (-signal.SIGKILL, [])
    assert (tmp_path/'.lock').exists()
    for name in ('checkpoint.pt.77.part', 'run.json.78.part'): (tmp_path/name).write_bytes(b'half')
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['history.jsonl', 'run.json', 'run.pt']


def test_a_file_system_without_locks_is_trained_on(tmp_path, whole, monkeypatch):
    def none(file, how): raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr('fcntl.flock', none)
    assert same(whole, fit(*SET, out=tmp_path, **SHORT))


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(*SET, each_step=at(3, lambda: os.kill(os.getpid(), signal.SIGHUP)), **SHORT | dict(recipe=replace(RECIPE, epochs=1)))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally: signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- what can be read again

def test_numbers_of_numpy_are_numbers(tmp_path, whole):
    kw = SHORT | dict(seed=np.int64(3), recipe=replace(RECIPE, lr=np.float64(RECIPE.lr), every=np.int64(11)))
    with pytest.raises(Boom): fit(*SET[:3], np.float64(.05), out=tmp_path, save_every=0, each_step=at(20, boom), **kw)
    assert same(whole, fit(*SET, out=tmp_path, resume=True, **SHORT))
    for wrong in (3.5, 'three', None):
        with pytest.raises(ValueError, match='seed is'): fit(*SET, **SHORT | dict(seed=wrong))


def remembers(monkeypatch, value):
    "Whatever method runs, it remembers `value`."
    sound = Sparsifier.state_dict
    def state_dict(self): return sound(self) | ({'memory': {'kept': value}} if self.updates else {})
    monkeypatch.setattr(Sparsifier, 'state_dict', state_dict)


def test_a_memory_that_no_checkpoint_can_hold_is_named_at_the_first_update(tmp_path, monkeypatch):
    remembers(monkeypatch, {1, 2})
    seen = []
    with pytest.raises(TypeError, match="memory.*kept.*set.*a checkpoint holds"): fit(*SET, out=tmp_path, each_step=lambda t: seen.append(t.position), **SHORT)
    assert max(seen) == 11


def test_a_memory_of_numpys_numbers_is_read_again(tmp_path, monkeypatch):
    remembers(monkeypatch, np.mean([1., 2.]))
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=0, each_step=at(20, boom), **SHORT)
    assert load_checkpoint(tmp_path/'checkpoint.pt')['sparsifier']['memory'] == {'kept': 1.5}


def test_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    def bad(data, path): raise ValueError(f'{path} is damaged')
    monkeypatch.setattr(runs, '_unseal', bad)
    with pytest.raises(ValueError, match='checkpoint.pt is damaged'): fit(*SET, out=tmp_path, save_every=0, **SHORT)


def test_a_resume_with_another_layout_converts_the_momentum(tmp_path):
    kw = dict(batch_limit=6)
    short = SHORT | dict(recipe=replace(RECIPE, epochs=1, every=3, warmup=0))
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=0, each_step=at(4, boom), channels_last=True, **kw, **short)
    strides = []
    def look(training): strides.extend(s['momentum_buffer'].stride() == p.stride() for p, s in training.optimizer.state.items())
    again = fit(*SET, out=tmp_path, resume=True, channels_last=False, each_step=look, **kw, **short)
    straight = fit(*SET, channels_last=False, **kw, **short)
    assert strides and all(strides)
    for n, v in straight.state.items(): torch.testing.assert_close(again.state[n], v, rtol=1e-3, atol=1e-4)


def test_the_history_is_readable_while_it_grows_and_after_a_resume(tmp_path, whole):
    lines = lambda: [json.loads(l) for l in (tmp_path/'history.jsonl').read_text().splitlines()]
    seen = []
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=1e9, each_epoch=lambda r, t: seen.append(len(lines())), each_step=at(50, boom), **SHORT)
    assert seen == [0, 1] and len(lines()) == 2      # no checkpoint was ever written
    run = fit(*SET, out=tmp_path, resume=True, **SHORT)
    assert lines() == run.history and [l['epoch'] for l in lines()] == [0, 1, 2] and same(whole, run)


# ---------------------------------------------------------------- optimisers, precision, parts of a batch

def test_fp16_trains_with_a_scaler_and_resumes(tmp_path):
    kw = SHORT | dict(amp='fp16')
    linear = 'mlp', 'digits', 'ggr', .1                    # a processor convolves slowly in fp16
    seen = {}                                              # how often the scale has held, too
    def note(run): return lambda t: seen.update({(run, t.position): t.scaler.state_dict()})
    straight = fit(*linear, each_step=note('straight'), **kw)
    assert straight.config['switches']['amp'] == 'fp16' and straight.accuracy > 40
    with pytest.raises(Boom): fit(*linear, out=tmp_path, save_every=0, each_step=at(30, boom), **kw)
    assert load_checkpoint(tmp_path/'checkpoint.pt')['scaler']['scale'] >= 1
    assert same(straight, fit(*linear, out=tmp_path, resume=True, each_step=note('again'), **kw))
    assert all(seen['again', i] == seen['straight', i] for i in range(31, 67)) and seen['straight', 66]['_growth_tracker'] > 50


def test_adamw_smoothing_and_cosine_reach_the_step():
    recipe, seen = replace(RECIPE, optimizer='adamw', lr=.003, lr_schedule='cosine', weight_decay=.01), []
    def look(t): seen.append((type(t.optimizer).__name__, t.optimizer.param_groups[0]['lr'], t.optimizer.param_groups[0]['weight_decay']))
    run = fit(*SET[:3], .2, each_step=look, **SHORT | dict(recipe=recipe))
    assert {s[0] for s in seen} == {'AdamW'} and {s[2] for s in seen} == {.01} and run.accuracy > 60
    assert [s[1] for s in seen] == pytest.approx([recipe.rate(i / 22) for i in range(66)]) and seen[-1][1] < 1e-5
    smooth = fit(*SET[:3], .2, **SHORT | dict(recipe=replace(recipe, label_smoothing=.3)))
    assert smooth.history[0]['loss'] > run.history[0]['loss'] and smooth.history[0]['test_loss'] != run.history[0]['test_loss']


def test_a_running_average_is_scored_kept_and_sparse_at_every_step(tmp_path):
    recipe, own = replace(RECIPE, ema=.9, every=5), {}
    def follow(t):
        now = {n: p.detach().clone() for n, p in t.model.named_parameters()}
        keep, first = min(.9, t.position / (t.position + 9)), not own
        for n, p in now.items():
            held = own.setdefault(n, start[n])
            own[n] = held + (1 - keep) * (p - held)
            if n in t.sparsifier.masks: own[n] = own[n] * t.sparsifier.masks[n]
        for n, p in t.average.named_parameters():
            torch.testing.assert_close(p, own[n], rtol=1e-5, atol=1e-6)
            if n in t.sparsifier.masks: assert not p[~t.sparsifier.masks[n]].any(), n
    start = {}
    def begin(x): start.update({n: p.detach().clone() for n, p in x.average.named_parameters()})
    import ggr_nb.train.training as module
    class Watched(module.Training):
        def run(self, *a): begin(self); return super().run(*a)
    kw = SHORT | dict(recipe=recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'Training', Watched)
        run = fit(*SET[:3], .2, each_step=follow, exclude='conv1*', **kw)
    assert len(run.updates) > 3 and run.accuracy > 30
    for n, p in own.items(): torch.testing.assert_close(run.state[n], p, rtol=1e-5, atol=1e-6)
    for n, m in run.masks.items(): assert not run.state[n][~m].any()
    kw |= dict(exclude='conv1*')
    with pytest.raises(Boom): fit(*SET[:3], .2, out=tmp_path, save_every=0, each_step=at(30, boom), **kw)
    assert same(run, fit(*SET[:3], .2, out=tmp_path, resume=True, **kw))
    plain = fit(*SET[:3], .2, exclude='conv1*', **SHORT | dict(recipe=replace(recipe, ema=0.)))
    assert not torch.equal(plain.state['fc2.weight'], run.state['fc2.weight'])
    with pytest.raises(ValueError, match='ema=0.9 does not go with'): fit('mlp', 'digits', storage='sparse', **SHORT | dict(recipe=recipe))


def test_mixed_images_reach_the_step_and_a_resumed_run(tmp_path):
    kw, seen = SHORT | dict(recipe=replace(RECIPE, mixup=.4)), []
    straight = fit(*SET[:3], .2, each_step=lambda t: seen.append(t.totals[0].clone()), **kw)
    assert straight.accuracy > 40 and all(s[2] == 64 * (i % 22 + 1) for i, s in enumerate(seen))
    with pytest.raises(Boom): fit(*SET[:3], .2, out=tmp_path, save_every=0, each_step=at(30, boom), **kw)
    assert same(straight, fit(*SET[:3], .2, out=tmp_path, resume=True, **kw))
    assert straight.history[-1]['loss'] > fit(*SET[:3], .2, **SHORT).history[-1]['loss']         # mixed labels are never sure


def test_a_run_of_before_a_field_existed_goes_on(tmp_path):
    "Recipes recorded by an older version lack the newer numbers; these had their defaults."
    with pytest.raises(Boom): fit(*SET, out=tmp_path, save_every=0, each_step=at(30, boom), **SHORT)
    file = tmp_path/'checkpoint.pt'
    state = load_checkpoint(file)
    for name in ('mixup', 'ema'): del state['config']['recipe'][name]
    from ggr_nb.train.runs import CheckpointWriter
    with_closing = CheckpointWriter(file); with_closing.save(state); with_closing.wait(); with_closing.close()
    assert fit(*SET, out=tmp_path, resume=True, **SHORT).accuracy == fit(*SET, **SHORT).accuracy


@pytest.mark.parametrize('parts', [2, 3, 64])
def test_a_batch_in_parts_has_the_same_gradient(parts):
    grads = {}
    def keep(name): return lambda t: grads.setdefault(name, {n: p.grad.clone() for n, p in t.model.named_parameters()})
    for k in (1, parts): fit('mlp', 'digits', 'ggr', .1, each_step=keep(k), **SHORT | dict(recipe=replace(RECIPE, epochs=1, accumulate=k), batch_limit=1))
    for n, g in grads[1].items(): torch.testing.assert_close(grads[parts][n], g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('limit, steps', [(None, 66), (3, 9), (1000, 66)])
def test_compiling_pays_by_the_steps_that_are_made(monkeypatch, limit, steps):
    import ggr_nb.train.training as module
    asked, choose = [], module.switches
    monkeypatch.setattr(module, 'switches', lambda net, device, amp, last, compile, n, *rest: asked.append(n) or choose(net, device))
    fit(*SET, **SHORT, batch_limit=limit)
    assert asked == [steps]


# ---------------------------------------------------------------- chosen on images held out

def test_the_test_images_are_scored_once_at_the_end(monkeypatch):
    data, looks, sound = digits(), [], Data.batches
    def batches(self, split, *args, **kw):
        if self is data: looks.append(split)
        return sound(self, split, *args, **kw)
    monkeypatch.setattr(Data, 'batches', batches)
    run = fit('digits_net', data, 'ggr', .05, val=.2, **SHORT | dict(recipe=replace(RECIPE, every=9)))
    assert looks == ['test'] and run.config['val'] == .2
    assert ['val_accuracy' in h for h in run.history] == [True] * 3 and ['accuracy' in h for h in run.history] == [False, False, True]
    net = MODELS['digits_net'](); net.load_state_dict(run.state); net.eval()
    held, batch = data.hold_out(.2, 3), lambda d: next(iter(d.batches('test', len(d.test[1]))))
    for d, key in ((data, 'accuracy'), (held, 'val_accuracy')):
        x, y = batch(d)
        assert run.history[-1][key] == pytest.approx(100 * (net(x).argmax(1) == y).float().mean().item(), abs=1e-4)


# ---------------------------------------------------------------- yours

class Disturbed(torch.utils.data.Dataset):
    "Digits with noise from three generators, as the transforms of others draw theirs."
    classes = range(10)
    def __init__(self, held): self.x, self.y = held[0].float() / 255, held[1]
    def __len__(self): return len(self.y)
    def __getitem__(self, i):
        noise = torch.randn(()) + random.gauss(0, 1) + np.random.randn()
        return self.x[i] + .02 * noise, int(self.y[i])


@pytest.mark.parametrize('workers', [0, 2])
def test_a_data_set_of_ones_own_resumes_to_the_last_bit(tmp_path, workers):
    d, kw = digits(), SHORT | dict(recipe=replace(RECIPE, epochs=2, every=5), batch_limit=8)
    pair = lambda n: (torch.utils.data.DataLoader(Disturbed(d.train), num_workers=n, shuffle=True), Disturbed(d.test))
    states = random.getstate(), np.random.get_state()[1].tolist()
    straight = fit('digits_net', pair(0), 'ggr', .1, **kw)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    with pytest.raises(Boom): fit('digits_net', pair(workers), 'ggr', .1, out=tmp_path, save_every=0, each_step=at(11, boom), **kw)
    np.random.rand(5); random.random()
    assert same(straight, fit('digits_net', pair(workers), 'ggr', .1, out=tmp_path, resume=True, **kw))


def test_models_of_libraries_are_trained_and_made_again(tmp_path):
    pytest.importorskip('timm')
    # in float32: an untrained network's scores are so close that another arithmetic names other classes, and `auto` may choose bf16
    kw = SHORT | dict(recipe=replace(RECIPE, epochs=1, batch=32, lr=.005), batch_limit=2, amp=False)
    for name in ('timm:test_resnet', 'torchvision:squeezenet1_1'):
        data = enlarged() if name.startswith('timm') else colour(32)
        run = fit(name, data, 'ggr', .2, out=tmp_path/name[-5:], **kw)
        again = Run.load(tmp_path/name[-5:]).model()
        other = {k: (v, run.state[k]) for k, v in again.state_dict().items() if not torch.equal(v, run.state[k])}
        assert not other and not again.training, (name, other)
        assert evaluate(again, data.batches('test', 50))[1] == pytest.approx(run.accuracy)
    assert build('timm:test_vit', colour(32))(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(ValueError, match="did you mean 'resnet18'"): fit('timm:resnet81', 'digits')


def colour(size):
    d = digits().part(train=200, test=100)
    grow = lambda held: (held[0].repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3).expand(-1, 3, -1, -1).contiguous(), held[1])
    return Data('colour', grow(d.train), grow(d.test), 10, (.3,) * 3, (.4,) * 3)


def test_a_run_of_ones_own_module_asks_for_it(tmp_path):
    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = fit(make(), 'digits', 'static', .5, **SHORT)
    with pytest.raises(ValueError, match='a module of your own, a Sequential'): run.model()
    assert torch.equal(run.model(make())[1].weight, run.state['1.weight'])


@pytest.mark.parametrize('change, message', [(dict(model='resnet19'), 'resnet18'), (dict(method='riggl'), 'rigl'), (dict(init='erkk'), 'erk'),
    (dict(recipe='cifar10'), 'cifar100'), (dict(recipe=replace(RECIPE, schedule='cosin')), 'cosin'), (dict(density=2), 'density is 2'), (dict(val=1), 'val is 1'),
    (dict(storage='csr'), 'There are: masked, sparse'), (dict(log='wandb'), 'There are: tensorboard'), (dict(log='tensorboard'), 'give out='), (dict(scaling='units'), 'unit'),
    (dict(augment=dict(turn=3)), 'augment'), (dict(device='mps'), 'float64'), (dict(model='timn:resnet18'), 'timm')])
def test_names_are_checked_before_data_is_looked_for(monkeypatch, change, message):
    monkeypatch.setitem(DATASETS, 'cifar100', lambda *root: pytest.fail('the data was opened'))
    with pytest.raises(ValueError, match=message): fit(**dict(model='resnet18', data='cifar100', progress=False) | change)


def test_augmentation_by_word_changes_the_data_of_the_run(tmp_path):
    runs = [train_main(**COMMAND, augment=a, out=str(tmp_path/str(a))) for a in (None, 'off', 'pad=2,rotate=5')]
    assert [r.config['augment'] for r in runs] == [dict(pad=1, flip=False, rotate=0.), dict(pad=0, flip=False, rotate=0.), dict(pad=2, flip=False, rotate=5.)]
    assert len({r.state['fc1.weight'].sum().item() for r in runs}) == 3
    with pytest.raises(ValueError, match='give off, or e.g. pad=4'): train_main(**COMMAND, augment='much', out=str(tmp_path/'x'))


def test_the_words_of_dynamic_sparse_training_reach_the_sparsifier(tmp_path):
    run = train_main(**COMMAND | dict(epochs=3), every=10, until=1.5, fraction=.4, schedule='linear', weight_decay=0., momentum=.8, out=str(tmp_path/'a'))
    assert [u['step'] for u in run.updates] == [10, 20, 30]
    assert [u['fraction'] for u in run.updates] == pytest.approx([.4 * (1 - i / 2.3) for i in range(3)])
    assert {k: run.config['recipe'][k] for k in ('weight_decay', 'momentum', 'schedule')} == dict(weight_decay=0, momentum=.8, schedule='linear')


def test_resuming_a_finished_run_says_that_nothing_was_trained(tmp_path, capsys):
    kw = COMMAND | dict(out=str(tmp_path/'a'))
    train_main(**kw)
    assert 'Written to' in capsys.readouterr().out
    stamp = (tmp_path/'a/run.json').stat().st_mtime_ns
    train_main(**kw, resume=True)
    said = capsys.readouterr().out
    assert 'nothing was trained' in said and 'Written' not in said and (tmp_path/'a/run.json').stat().st_mtime_ns == stamp
    loss, accuracy = evaluate_run(Run.load(tmp_path/'a'), device='cpu')
    assert accuracy == pytest.approx(Run.load(tmp_path/'a').accuracy)


def test_curves_for_tensorboard(tmp_path, monkeypatch):
    import types
    told = []
    class SummaryWriter:
        def __init__(self, folder): told.append(str(folder))
        def add_scalar(self, name, value, epoch): told.append((name, value, epoch))
        def flush(self): pass
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', types.SimpleNamespace(SummaryWriter=SummaryWriter))
    run = fit(*SET, out=tmp_path, log='tensorboard', **SHORT)
    assert told[0] == str(tmp_path/'tensorboard')
    for h in run.history: assert ('accuracy', h['accuracy'], h['epoch']) in told and ('counts/fc2.weight', h['counts']['fc2.weight'], h['epoch']) in told
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(ValueError, match='pip install tensorboard'): fit(*SET, out=tmp_path/'b', log='tensorboard', **SHORT)


def test_epochs_mean_the_same_in_both_commands():
    from ggr_nb.paper.sweep import Job, recipe_of
    job = Job('cifar100', 'resnet18', 'ggr', .01, 'erk', 0, epochs=8)
    assert recipe_of(job, 390) == RECIPES['cifar100'].scaled(8)


# ---------------------------------------------------------------- real images

def real(load):
    try: return load()
    except FileNotFoundError as e: pytest.skip(f'data absent: {str(e).splitlines()[0]}')


def test_cifar100_learns_and_bf16_is_as_good():
    "60 steps of a narrow ResNet on five of the hundred classes; bf16 within the noise of float32."
    data = subset(real(cifar100), 5).part(test=250)
    recipe = Recipe(epochs=3, batch=50, lr=.1, milestones=(2,), update_until=2, fraction=.3, every=15)
    kw = dict(recipe=recipe, width=.125, progress=False, device='cpu', batch_limit=20)
    plain, half = (fit('resnet18', data, 'ggr', .2, amp=amp, **kw) for amp in (False, True))
    print(f'float32 {plain.accuracy:.1f} %, bf16 {half.accuracy:.1f} %')
    assert plain.accuracy > 40 and half.accuracy > 40 and abs(plain.accuracy - half.accuracy) < 12
    assert len(plain.updates) == 2 and sum(plain.history[-1]['counts'].values()) == sum(half.history[-1]['counts'].values())


def subset(data, classes):
    "The first few classes."
    cut = lambda held: tuple(t[held[1] < classes] for t in held)
    return replace(data, train=cut(data.train), test=cut(data.test), classes=classes, names=data.names[:classes])


def test_tiny_imagenet_learns():
    data = subset(real(tiny_imagenet), 10).part(test=200)
    n = len(data.train[1])
    recipe = Recipe(epochs=6, batch=25, lr=.02, milestones=(5,), update_until=3, fraction=.3, every=20)
    run = fit('vgg16_tiny', data, 'ggr', .1, recipe=recipe, width=.1, progress=False, device='cpu', batch_limit=40)
    print(f'{n} images, {len(data.test[1])} test, {run.accuracy:.1f} %')
    assert run.history[-1]['loss'] < run.history[0]['loss'] - .2 and run.accuracy > 20


# ---------------------------------------------------------------- sparse storage

@pytest.mark.parametrize('model', ['mlp', 'digits_net'])          # all linear; convolutions keep masks
@pytest.mark.parametrize('method', ['ggr', 'dsr', 'srigl'])
def test_sparse_storage_gives_the_record_of_the_masked_run(model, method):
    masked, sparse = (fit(model, 'digits', method, .05, storage=s, amp='off', **SHORT) for s in ('masked', 'sparse'))
    assert all(torch.equal(m, sparse.masks[n]) for n, m in masked.masks.items()) and [u['layers'] for u in masked.updates] == [u['layers'] for u in sparse.updates]
    for a, b in zip(masked.history, sparse.history, strict=True):
        assert {k: a[k] for k in ('counts', 'density', 'exploration', 'flops')} == {k: b[k] for k in ('counts', 'density', 'exploration', 'flops')}
        assert b['loss'] == pytest.approx(a['loss'], rel=.01) and b['gradient_norm'] == pytest.approx(a['gradient_norm'], rel=.02)
    assert masked.state.keys() == sparse.state.keys()
    for k, v in masked.state.items(): torch.testing.assert_close(sparse.state[k], v, rtol=.02, atol=.01)      # float32, sums in another order


def test_sparse_storage_stops_and_goes_on_to_the_last_bit(tmp_path):
    kw = SHORT | dict(storage='sparse', amp='off')
    straight = fit(*SET, **kw)
    def stop(t):
        if t.position == 29: t.asked.append('enough')
    with pytest.raises(Stopped): fit(*SET, **kw, out=tmp_path/'a', each_step=stop)
    assert same(straight, fit(*SET, **kw, out=tmp_path/'a', resume=True))
    with pytest.raises(ValueError, match='storage'): fit(*SET, **SHORT, amp='off', out=tmp_path/'a', resume=True)
    net = MODELS['digits_net'](); done = fit(net, *SET[1:], **kw, out=tmp_path/'b')
    again = MODELS['digits_net'](); fit(again, *SET[1:], **kw, out=tmp_path/'b', resume=True)      # a finished run: nothing is trained
    assert type(net.fc1) is type(again.fc1) is SparseLinear and torch.equal(net.fc1.values, again.fc1.values)
    loss, accuracy = evaluate_run(Run.load(tmp_path/'a'), device='cpu')
    assert accuracy == pytest.approx(straight.accuracy)


@pytest.mark.parametrize('change, message', [(dict(method='gmp'), "'gmp' needs every place"), (dict(method='snfs'), "'snfs' needs every place"),
    (dict(method='dense'), "'dense' needs every place"), (dict(scaling='unit'), "scaling='unit' does not go"), (dict(compile=True), 'compile=True does not go'),
    (dict(model=nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())), 'no linear layer')])
def test_sparse_storage_refuses_before_training(change, message):
    kw = dict(model='digits_net', data='digits', method='ggr', density=.05, storage='sparse', each_step=lambda t: pytest.fail('it trained'), **SHORT) | change
    with pytest.raises(ValueError, match=message): fit(**kw)


def test_the_command_takes_a_storage(tmp_path):
    runs = [train_main(**COMMAND, storage=s, out=str(tmp_path/s)) for s in ('masked', 'sparse')]
    assert [r.config['storage'] for r in runs] == ['masked', 'sparse'] and runs[0].history[-1]['counts'] == runs[1].history[-1]['counts']
    with pytest.raises(ValueError, match="'snfs' needs every place"): train_main(**COMMAND | dict(method='snfs'), storage='sparse', out=str(tmp_path/'c'))


@pytest.mark.parametrize('storage', ['masked', 'sparse'])
def test_a_density_for_each_layer_needs_no_other(storage, tmp_path):
    "Nobody is told of a density that nobody gave, and the run goes on from its checkpoint."
    net = MODELS['mlp']; sizes = {n: p.numel() for n, p in sparse_parameters(net()).items()}; shares = dict(zip(sizes, (.1, .1, .3), strict=True))
    how = dict(init=shares, recipe=replace(RECIPES['digits'], epochs=2), device='cpu', progress=False, batch_limit=3, storage=storage)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always'); run = fit(net(), 'digits', 'static', out=tmp_path/'run', **how)
    assert not [w for w in told if 'is not used' in str(w.message)]
    assert {n: int(m.sum()) for n, m in run.masks.items()} == {n: round(d * sizes[n]) for n, d in shares.items()}
    assert fit(net(), 'digits', 'static', resume=True, out=tmp_path/'run', **how).accuracy == run.accuracy
    with pytest.warns(UserWarning, match='density=0.5 is not used: init= gives'): fit(net(), 'digits', 'static', .5, **how)
