"""benchmarks/gpu.py cannot rot: its agreement on the pretended device, all else at toy size on this processor."""
import json, os, pickle, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch

from pretend_device import DEVICE, pretended
from test_device import KINDS, without_clocks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
import carry, gpu, turns as taking
from ggr_nb.methods import METHODS
from ggr_nb.paper import sweep
from ggr_nb.paper.sweep import Job, Results, run_job
from ggr_nb.train.data import Data
from ggr_nb.train.machine import Stopped
from ggr_nb.train.runs import load_checkpoint


@pytest.fixture(autouse=True)
def begun_now(monkeypatch): monkeypatch.setattr(gpu, 'START', gpu.time.monotonic())     # and not when it was imported


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "One call of the command, everything but agreement, and the one after it."
    out = tmp_path_factory.mktemp('gpu')
    where = '--toy', '--device', 'cpu', '--out', str(out)
    first = subprocess.run([sys.executable, gpu.__file__, 'speed', 'sparse', 'vgg16', 'evidence', '--minutes', '9', *where], text=True,
                           capture_output=True, env=os.environ | dict(OMP_NUM_THREADS='1'), cwd=out)
    assert first.returncode == 0, first.stderr
    seen = json.loads((out/'gpu.json').read_text())
    gpu.main(['evidence', 'speed', 'agreement', '--minutes', '0', *where])
    return dict(out=out, first=seen, second=json.loads((out/'gpu.json').read_text()))


def errors(found): return [(k, v) for k, v in found.items() if k == 'error'] + [e for v in found.values() if isinstance(v, dict) for e in errors(v)]


def test_every_item_of_speed_and_sparse_has_a_number(toy):
    speed, sparse = toy['first']['speed'], toy['first']['sparse']
    assert not speed['skipped'] and not sparse['skipped'] and not errors(speed['results']) + errors(sparse['results'])
    assert set(speed['results']) == {'resnet18', 'masks', 'updates', 'batches', 'trainer', 'side by side', 'profile', 'profile of an update', 'selection', 'vgg16_tiny', 'mobilenet_v2'}
    assert {k: g['found'] is not None for k, g in speed['goals'].items()} == dict.fromkeys(gpu.GOALS, True)
    products, steps = ({n: r for n, r in sparse['results'].items() if k in n} for k in ('rows', 'step'))
    assert len(products) == len(steps) == 3 and sparse['results']['update of 96-64-10 at 0.1']['products'] > 0
    assert all(r['relative_error'] < 1e-5 and r['speedup'] > 0 for r in products.values())
    assert all(set(r['ms']) == {'dense float32', 'dense tf32', 'dense bf16', 'masked bf16', 'sparse'} for r in steps.values())
    assert speed['machine']['card'] is None and speed['command'].startswith('python benchmarks/gpu.py speed')


def test_the_masks_that_are_to_be_deployed_come_back(toy):
    found = toy['first']['vgg16']['results']
    assert set(found) == {'ggr, density 0.03', 'dense'} and not errors(found)
    kept = json.loads((toy['out']/'vgg16.json').read_text())
    masks = carry.masks_from_text(kept['masks'])
    assert kept['accuracy'] == found['ggr, density 0.03']['accuracy'] and carry.masks_to_text(masks) == kept['masks']
    active, places = (sum(f(m) for m in masks.values()) for f in (lambda m: int(m.sum()), torch.Tensor.numel))
    assert active == round(.03 * places)


def test_a_scaler_is_the_same_for_a_fused_optimiser():
    found = gpu.agree_scaler(torch.device('cpu'))
    assert found['equal'] and len(found['shares']) == 4


def test_evidence_is_appended_line_by_line(toy):
    found = toy['first']['evidence']
    keys = [j.key for j in gpu.toy_cells()]
    assert not found['failed'] and found['open'] == 0 and sorted(d['key'] for d in found['done']) == sorted(keys)
    lines = Results(toy['out']/'paper.jsonl').load()
    assert lines.keys() == set(keys) and all(r['accuracy'] > 10 for r in lines.values())


def test_without_time_every_part_says_so_and_keeps_what_it_had(toy):
    first, second = toy['first'], toy['second']
    for part in ('speed', 'evidence'):
        assert second[part].pop('refused') == 'no time left'
        assert second[part] == {k: v for k, v in first[part].items() if v or k != 'failed'}
    assert second['sparse'] == first['sparse'] and second['agreement']['refused'] == 'no time left'


def machine(card): return dict(card=card, torch='2')


def book_of(folder, monkeypatch, before=None, card=None, only=(), commit='new', **more):
    "A book whose checkout is `folder`, with what it holds."
    monkeypatch.setattr(gpu, 'HERE', folder); monkeypatch.setattr(gpu, 'machine', lambda _: machine(card))
    if before is not None: gpu.write(folder/'gpu.json', before)
    return gpu.Book(more.get('path', folder/'gpu.json'), 'cpu', 1e6, commit, only)


def entry(card=None, **more): return dict(dict(machine=machine(card), command='then', commit='old', results={}, skipped=[]), **more)


def test_what_a_call_finds_is_joined_item_by_item(tmp_path, monkeypatch):
    "One measured again, one for the first time, one that fails now, one for which there is no time: none takes another with it."
    before = dict(sparse=entry(results=dict(a=1, b=2, c=3), skipped=['d', 'e'], seconds=dict(c=1e9)), vgg16=entry(results=dict(z=1)))
    book = book_of(tmp_path, monkeypatch, before)
    book.open('sparse', 100, 'now'); book.measure([('a', lambda: 10), ('b', lambda: 1 / 0), ('c', lambda: 30), ('d', lambda: 40), ('e', lambda: 50, 1e9)])
    found = gpu.read(tmp_path/'gpu.json'); now = dict(command='now', commit='new', machine=machine(None))
    assert found['sparse']['results'] == dict(a=10, b=2, c=3, d=40) and found['sparse']['again'] == dict(a=now, d=now)
    assert found['sparse']['skipped'] == ['e'] and found['sparse']['failed'] == dict(b='ZeroDivisionError: division by zero')
    assert found['sparse']['commit'] == 'old' and found['vgg16'] == before['vgg16']
    book = book_of(tmp_path, monkeypatch, commit='newer')
    book.open('sparse', 100, 'later'); book.measure([(n, lambda: 0) for n in 'abcde' if n != 'c'])
    assert 'c' not in gpu.read(tmp_path/'gpu.json')['sparse']['again']
    book.open('sparse', 1e10, 'later'); book.until = 1e12; book.measure([(n, lambda: 0) for n in 'abcde'])
    found = gpu.read(tmp_path/'gpu.json')['sparse']                # all of them again: the entry is theirs
    assert not found.keys() & {'again', 'failed'} and not found['skipped']
    assert (found['commit'], found['command']) == ('newer', 'later') and set(found['results'].values()) == {0}


def test_what_has_not_been_measured_is_named_before_it_is_tried(tmp_path, monkeypatch):
    "So that it is named if the process dies."
    book = book_of(tmp_path, monkeypatch)
    def dies(): raise SystemExit
    book.open('sparse', 100, 'now')
    with pytest.raises(SystemExit): book.measure([('b', dies), ('c', dies)])
    assert gpu.read(tmp_path/'gpu.json')['sparse']['skipped'] == ['b', 'c']


def test_missing_data_and_errors_leave_what_was_measured(tmp_path, monkeypatch):
    before = dict(vgg16=entry(results=dict(dense=1)), evidence=entry(done=[], paused=dict(a=dict(packed='4 MB')), open=3))
    book_of(tmp_path, monkeypatch, before)
    monkeypatch.setattr(gpu, 'data_is_there', lambda part, *_: 'no folder'); monkeypatch.setattr(gpu, 'names', lambda *_: [])
    gpu.main(['vgg16', 'evidence', '--device', 'cpu'])
    assert gpu.read(tmp_path/'gpu.json') == {n: e | dict(refused='no folder') for n, e in before.items()}
    monkeypatch.setattr(gpu, 'data_is_there', lambda *_: None); monkeypatch.setattr(gpu, 'vgg16', lambda *_: 1 / 0)
    gpu.main(['vgg16', '--device', 'cpu'])
    after = gpu.read(tmp_path/'gpu.json')['vgg16']
    assert after['results'] == dict(dense=1) and after['refused'].startswith('ZeroDivisionError')


def test_another_card_gets_an_entry_of_its_own(tmp_path, monkeypatch):
    "And what is known is what this card has said; runs go from card to card."
    runs = dict(done=[], paused={}, failed={}, open=1)
    before = dict(sparse=entry('H100', results=dict(a=1)), evidence=entry('H100', **runs | dict(paused=dict(x=1, y=2))))
    book = book_of(tmp_path, monkeypatch, before, card='H200')
    assert book.known('sparse')['results'] == {} and book.known('evidence')['paused']
    book.open('sparse', 100, 'now'); book.measure([('a', lambda: 2)])
    book.open('evidence', 100, 'now'); book.entry |= dict(runs, done=[dict(key='x')]); book.write()
    found = gpu.read(tmp_path/'gpu.json')
    assert found['sparse'] == before['sparse'] and found['sparse on H200']['results'] == dict(a=2) and len(found) == 3
    assert found['evidence']['machine']['card'] == 'H200' and found['evidence']['paused'] == dict(y=2)
    assert book_of(tmp_path, monkeypatch, card='H200').known('sparse')['results'] == dict(a=2)


def test_some_items_elsewhere_are_collected_into_the_others(toy, tmp_path, monkeypatch):
    "--out holds what this call found, whatever the checkout knows; `collect` joins it, and twice is once."
    there = tmp_path/'there'; monkeypatch.setenv('GGR_COMMIT', '')
    book_of(tmp_path, monkeypatch, dict(speed=toy['first']['speed'] | dict(skipped=['batches'])))
    gpu.main(['speed', '--only', 'selection,batches', '--toy', '--device', 'cpu', '--out', str(there), '--commit', 'abc', '--minutes', '1e6'])
    found = gpu.read(there/'gpu.json')['speed']
    assert found['results'].keys() == {'selection', 'batches'} and found['commit'] == 'abc'
    monkeypatch.setattr(gpu, 'ROOT', tmp_path); (tmp_path/'results').mkdir()
    for _ in range(2): gpu.collect(there)
    before, after = toy['first']['speed'], gpu.read(tmp_path/'gpu.json')['speed']
    assert after['again'].keys() == {'selection', 'batches'} and after['results'].keys() == before['results'].keys() and not after['skipped']
    assert {n for n in before['results'] if after['results'][n] != before['results'][n]} == {'selection', 'batches'}


def test_contenders_take_turns():
    "After a first round that does not count; of the seconds a call, the least or what is asked for."
    ticks = iter([0, 0, 0, 4, 0, 2, 0, 6, 0, 1]); turns = []
    found = taking.alternate(dict(a=lambda: turns.append('a'), b=lambda: turns.append('b')), 2, clock=lambda: next(ticks), calls=2, of=list)
    assert turns == list('aabb' * 3) and found == dict(a=[2, 3], b=[1, .5])
    assert taking.machine(load=1).keys() == {'cpu', 'threads', 'torch', 'load'} and taking.alternate(dict(a=int), 1)['a'] > 0


@pytest.mark.parametrize('words, said', [('batches', "speed --only 'batches'"), ('batch', 'there are agreement, speed'), ('speed --toy', 'give --out'),
                                         ('speed --only batch', 'no item batch')])
def test_what_is_no_part_is_said(words, said, capsys):
    with pytest.raises(SystemExit): gpu.main([*words.split(), '--device', 'cpu'])
    assert said in capsys.readouterr().err


def test_agreement_holds_on_the_pretended_device(tmp_path, monkeypatch):
    "The same checks as on a card, with a device on which CPU tensors and its own do not mix; one method of each kind (all of them: test_device)."
    monkeypatch.setattr(gpu, 'METHODS', {m: METHODS[m] for m in KINDS}); monkeypatch.setattr(gpu, 'STORED', ('ggr', 'srigl'))
    with pretended():
        book = gpu.Book(tmp_path/'gpu.json', DEVICE.type, 1e6)
        book.open('agreement', 1e9, 'a test'); book.measure(gpu.agreement(book, gpu.TOY))
    found = json.loads((tmp_path/'gpu.json').read_text())['agreement']
    expected = {'pictures', 'topk', 'gradient', 'job', 'resume'} | {f'updates of {m}' for m in KINDS} | {f'storage of {m}' for m in gpu.STORED}
    assert found['broken'] == [] and not found['skipped'] and 'failed' not in found and found['results'].keys() == expected
    assert all(found['results'][f'updates of {m}']['updates'] >= 5 for m in KINDS if METHODS[m].dynamic)


def test_agreement_sees_a_difference(monkeypatch):
    "A device that grows other places, or counts one vote more, is found out."
    real, counts, calls = gpu.five_updates, gpu.StreamingTopK.counts, []
    monkeypatch.setattr(gpu, 'five_updates', lambda method, device: real(method if device == 'cpu' else 'set', 'cpu'))
    found = gpu.agree_updates('rigl', 'there')
    assert found['promised'] and not found['equal'] and found['places_that_differ']
    assert gpu.agree_topk('cpu', gpu.TOY)['equal']
    monkeypatch.setattr(gpu.StreamingTopK, 'counts', lambda self: counts(self) | dict(extra=len(calls.append(0) or calls)))
    assert not gpu.agree_topk('cpu', gpu.TOY)['equal']


def test_a_run_that_is_cut_off_is_packed_and_continued(tmp_path):
    "Stopped by a signal, packed, its folder lost, unpacked, continued in another process: the uninterrupted run."
    job = Job('digits', 'digits_net', 'ggr', .05, 'erk', 0, epochs=3, width=.25, batch=64)
    ask = dict(job=gpu.asdict(job), device='cpu', results=str(tmp_path/'lines.jsonl'), threads=1)
    process = gpu.start('cell', ask | dict(runs=str(tmp_path/'one'), how=dict(save_every=0.)))
    while not (tmp_path/'one'/job.key/'checkpoint.pt').exists(): assert process.poll() is None; time.sleep(.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130 and not Results(tmp_path/'lines.jsonl').load()
    said = gpu.pack_run(job, tmp_path/'one', tmp_path/'paused')
    packed, = (tmp_path/'paused').iterdir()
    assert said.endswith('MB') and packed.stat().st_size < .5 * (tmp_path/'one'/job.key/'checkpoint.pt').stat().st_size
    assert gpu.unpack_run(job, tmp_path/'two', [tmp_path/'nowhere', tmp_path/'paused'])
    assert gpu.start('cell', ask | dict(runs=str(tmp_path/'two'), how={})).wait() == 0
    whole = run_job(job, device='cpu')
    assert without_clocks(Results(tmp_path/'lines.jsonl').load()[job.key]) == json.loads(json.dumps(without_clocks(whole)))


def cifar_of_nothing(batch):
    "CIFAR-100 by its sizes, of one black image that takes no memory; batches of a few images, so that a step is quick."
    class Few(Data):
        def batches(self, *a, **k): return ((x[:batch], y[:batch]) for x, y in super().batches(*a, **k))
    split = lambda n: (torch.zeros((1, 3, 32, 32), dtype=torch.uint8).expand(n, 3, 32, 32), torch.arange(n) % 100)
    return Few('cifar100', split(50_000), split(10_000), 100, (.5,) * 3, (.25,) * 3, pad=4, flip=True, rotate=15.)


@pytest.mark.parametrize('job', [j for j in gpu.cells() if (gpu.HERE/'gpu_paused'/gpu.paused_name(j.key)).exists()], ids=lambda j: j.key)
def test_the_packed_runs_go_on(job, tmp_path, monkeypatch):
    "Each that is kept unpacks, is no other run than the one asked for today, and makes a step."
    monkeypatch.setattr(sweep, 'load_data', lambda *_: cifar_of_nothing(4))
    assert gpu.unpack_run(job, tmp_path, [gpu.HERE/'gpu_paused'])
    before = load_checkpoint(tmp_path/job.key/'checkpoint.pt')
    with pytest.raises(Stopped): run_job(job, tmp_path, 'cpu', compile=False, each_step=lambda t: t.asked.append(2))
    after = load_checkpoint(tmp_path/job.key/'checkpoint.pt')
    assert (after['epoch'], after['step']) == (before['epoch'], before['step'] + 1) and before['epoch'] > 50


def test_the_order_of_the_cells():
    "What decides most comes first; nothing is asked twice; all are jobs of the grid or half as wide."
    cells = list(gpu.cells()); keys = [c.key for c in cells]
    assert len(set(keys)) == len(keys)
    assert [c.method for c in cells[:5]] == ['ggr', 'rigl', 'set', 'dsr', 'dense'] and {(c.density, c.init) for c in cells[:4]} == {(.01, 'uniform')}
    from ggr_nb.paper.published import grid
    full = {j.key for j in grid(data='cifar100', models='resnet18')}
    assert {c.key for c in cells if c.width is None and c.method != 'dense'} <= full
    assert all(c.recipe in ('full', 'width=0.5') for c in cells)


def test_how_many_runs_follow_from_what_this_card_said_of_todays_way(tmp_path, monkeypatch):
    side = lambda **rates: dict(speed=entry('H100', results={'side by side': rates}))
    def rates(**found): return gpu.rates(book_of(tmp_path, monkeypatch, side(**found), card='H100'), 'graphs')
    assert gpu.how_many({}) == 2
    assert gpu.how_many(rates(**{'1': 100., '2': 190., '3': 195., 'way': 'graphs'})) == 2
    assert gpu.how_many(rates(**{'1': 100., '2': 101., '3': 'skipped', 'way': 'graphs'})) == 1
    assert rates(**{'1': 100., '2': 190., 'way': 'eager'}) == rates(**{'1': 100., '2': 190.}) == {}
    assert gpu.rates(book_of(tmp_path, monkeypatch, side(**{'1': 100., 'way': 'graphs'}), card='H200'), 'graphs') == {}
    dense, ggr = (Job('cifar100', 'resnet18', m, 1., 'dense', 0) for m in ('dense', 'ggr'))
    # 5 million images, two at a time: 499 s, and a fifth more; what is not known is not begun
    assert not gpu.fits(dense, 20_000., 2, 590) and gpu.fits(dense, 20_000., 2, 610) and gpu.fits(ggr, 20_000., 2, 1)
    assert not gpu.fits(dense, None, 2, 1e6) and gpu.fits(ggr, None, 2, 1)


def test_a_short_call_measures_first_what_the_long_runs_depend_on():
    items = gpu.names('speed', gpu.FULL)
    assert items[:2] == ['resnet18', 'resnet18 compiled'] and max(map(items.index, ('masks', 'trainer', 'batches', 'updates'))) < items.index('side by side')


def test_the_trainer_is_timed_with_its_updates_and_its_evaluation(monkeypatch):
    "The clock goes from record to record: here a tick for every batch that is asked for, training's or test's."
    ticks, real = [0], gpu.Data.batches
    def batches(self, *a, **k):
        for b in real(self, *a, **k): ticks[0] += 1; yield b
    monkeypatch.setattr(gpu.Data, 'batches', batches)
    monkeypatch.setattr(gpu.time, 'monotonic', lambda: ticks[0])
    found = gpu.speed_trainer(torch.device('cpu'), gpu.TOY | dict(images=80))
    assert found['updates'] == 2 and found['test_images'] == 16
    assert found['images_per_second'] == round(80 / (10 + 2 + 1), 1)         # ten steps, two batches of test images, one for the gradient


def test_each_way_has_a_peak_of_memory_of_its_own(monkeypatch):
    "On a pretended card whose memory each way fills less than the one before."
    peak, fills = [0.], iter((3e9, 2e9, 1e9))
    class Step:
        def __init__(self, *_, **__): peak[0] = max(peak[0], next(fills))
        def __call__(self): pass
    monkeypatch.setattr(gpu, 'Steps', Step); monkeypatch.setattr(gpu, 'in_turns', lambda c, *_: dict.fromkeys(c, 1.))
    for f in 'wait', 'empty': monkeypatch.setattr(gpu, f, lambda _: None)
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', lambda _: peak.__setitem__(0, 0.))
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda _: peak[0])
    found = gpu.speed_ways(torch.device('cuda'), gpu.TOY, 'resnet18', 1., ['float32', 'tf32', 'bf16'])
    assert [found[w]['peak GB'] for w in found] == [3., 2., 1.]


# --- a team of runs -----------------------------------------------------------------------------------------------------

class Child:
    "A process that ends with a status after some looks at it; the signal to stop makes it end with another."
    def __init__(self, status, looks=1, when_told=130): self.status, self.looks, self.when_told, self.returncode = status, looks, when_told, None
    def poll(self):
        self.looks -= 1
        if self.looks <= 0 and self.returncode is None: self.returncode = self.status
        return self.returncode
    def send_signal(self, _): self.returncode = self.when_told if self.returncode is None else self.returncode
    def wait(self, *_): return self.returncode


def run_team(tmp_path, monkeypatch, statuses, looks=1, seconds=100, told=lambda now: None, **more):
    "Evidence over children that end as told: {key: [status of the first try, of the second]}. What it asked of each, and the book's entry."
    clock = [0.]; monkeypatch.setattr(gpu.time, 'monotonic', lambda: clock[0])
    def sleep(seconds): clock[0] += seconds; told(clock[0])
    monkeypatch.setattr(gpu.time, 'sleep', sleep)
    book, asked = book_of(tmp_path, monkeypatch), []
    def start(what, ask, stderr):
        key = Job(**ask['job']).key; asked.append((key, ask['how'])); stderr.write('why\n')
        return Child(statuses.get(key, [0, 0])[sum(k == key for k, _ in asked) - 1], looks, **more)
    monkeypatch.setattr(gpu, 'start', start)
    book.open('evidence', seconds, 'now')
    size = gpu.FULL | dict(runs=3, farewell=0)
    files = dict(write=tmp_path/'lines.jsonl', read={tmp_path/'lines.jsonl'}, runs=tmp_path/'runs', paused=[tmp_path/'paused'])
    gpu.evidence(book, size, files)
    return asked, gpu.read(tmp_path/'gpu.json')['evidence']


KEYS = [c.key for c in gpu.cells() if c.method != 'dense']


def test_a_run_that_is_refused_stops_neither_the_others_nor_compiling(tmp_path, monkeypatch):
    asked, found = run_team(tmp_path, monkeypatch, dict.fromkeys(KEYS[:4], [gpu.REFUSED]))
    assert list(found['failed']) == KEYS[:4] and found['failed'][KEYS[0]] == 'exit status 65: why'
    assert [d['key'] for d in found['done']] == KEYS[4:] and found['how'] == {} and all(how == {} for _, how in asked)


def test_a_run_that_breaks_is_tried_once_more_without_compiling(tmp_path, monkeypatch):
    asked, found = run_team(tmp_path, monkeypatch, {KEYS[0]: [1, 0]})
    off = dict(compile=False)
    assert asked.count((KEYS[0], off)) == 1 and [how for key, how in asked if key != KEYS[0]] == [{}] * (len(KEYS) - 1)
    assert not found['failed'] and len(found['done']) == len(KEYS) and found['how'] == {KEYS[0]: off}


def test_if_everything_breaks_it_ends(tmp_path, monkeypatch):
    asked, found = run_team(tmp_path, monkeypatch, dict.fromkeys(KEYS, [1, 1]))
    assert len(found['failed']) == 3 and len(asked) < 10 and not found['done']


def test_who_ends_well_at_the_farewell_is_done(tmp_path, monkeypatch):
    "The checkpoint it was continued from goes."
    (tmp_path/'paused').mkdir(); packed = [tmp_path/'paused'/gpu.paused_name(k) for k in KEYS[:3]]
    for file in packed: file.write_bytes(gpu.lzma.compress(b'a checkpoint'))
    found = run_team(tmp_path, monkeypatch, {}, looks=1000, seconds=10, when_told=0)[1]
    assert [d['key'] for d in found['done']] == KEYS[:3] and not found['paused'] and not any(f.exists() for f in packed)
    assert found['open'] == len(KEYS) + 3 - 3                     # the dense ones wait


@pytest.mark.parametrize('signals', [signal.SIGTERM, signal.SIGINT], ids=['SIGTERM', 'Ctrl-C'])
def test_a_call_that_is_told_to_end_packs_what_it_has(tmp_path, monkeypatch, signals):
    told = lambda now: now > 5 and os.kill(os.getpid(), signals)
    for key in KEYS[:3]:
        place = tmp_path/'runs'/key/'checkpoint.pt'; place.parent.mkdir(parents=True); place.write_bytes(b'a checkpoint')
    with pytest.raises((SystemExit, KeyboardInterrupt)): run_team(tmp_path, monkeypatch, {}, looks=1000, told=told)
    found = gpu.read(tmp_path/'gpu.json')['evidence']
    assert list(found['paused']) == KEYS[:3] and {f.name for f in (tmp_path/'paused').iterdir()} == set(map(gpu.paused_name, KEYS[:3]))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getsignal(signal.SIGINT) == signal.default_int_handler


# --- mosaics ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def parts(tmp_path):
    "A data set in CIFAR-100's form, packed in several parts."
    source, rng = tmp_path/'cifar-100-python', np.random.default_rng(0)
    source.mkdir()
    (source/'meta').write_bytes(pickle.dumps({'fine_label_names': ['a', 'b']}, protocol=4))
    for name, n in (('train', 600), ('test', 30)):
        smooth = np.cumsum(rng.integers(-3, 4, (n, 3072)), 1).astype(np.uint8)
        (source/name).write_bytes(pickle.dumps({'filenames': [f'{i}.png' for i in range(n)], 'data': smooth, 'fine_labels': [i % 2 for i in range(n)]}, protocol=4))
    number = carry.pack(tmp_path, tmp_path/'packed', limit=700_000, method=0)
    assert number > 1
    return tmp_path


def test_mosaics_come_back_bit_for_bit(parts):
    for given in ([parts/'packed'], sorted((parts/'packed').glob('part*'))):
        assert carry.unpack(given, parts/'back') == [parts/'back/cifar-100-python'/name for name in ('meta', 'train', 'test')]
        back = parts/'back/cifar-100-python'
        for name in ('meta', 'train', 'test'): assert (back/name).read_bytes() == (parts/'cifar-100-python'/name).read_bytes()
    assert all(sum(f.stat().st_size for f in p.glob('*.*') if f.name != 'list.json') <= 700_000 for p in (parts/'packed').iterdir())
    from PIL import Image
    assert Image.open(next((parts/'packed').rglob('train000.webp'))).size == (512, 512)


def test_damaged_and_missing_mosaics_are_named(parts):
    victim = next((parts/'packed').rglob('train001.webp')); body = bytearray(victim.read_bytes())
    body[100] ^= 1; victim.write_bytes(bytes(body))
    with pytest.raises(ValueError, match='train001.webp is damaged'): carry.unpack([parts/'packed'], parts/'back')
    victim.unlink()
    with pytest.raises(FileNotFoundError, match='train001.webp is missing: it belongs to part'): carry.unpack([parts/'packed'], parts/'back')
    with pytest.raises(FileNotFoundError, match='part0, part1'): carry.unpack([parts/'back'], parts/'other')


def test_a_file_travels_in_pieces(tmp_path):
    "And older parts in the folder are none of it."
    body = np.random.default_rng(0).bytes(2500); (tmp_path/'some.zip').write_bytes(body)
    for limit in (500, 1000): assert carry.pack(tmp_path/'some.zip', tmp_path/'packed', limit) == 3000 // limit - (limit == 500)
    assert len(list((tmp_path/'packed').iterdir())) == 3
    back, = carry.unpack([tmp_path/'packed'], tmp_path/'back')
    assert back == tmp_path/'back/some.zip' and back.read_bytes() == body


def test_a_part_travels_with_the_checkout():
    "What git tracks and one part stay below 64 MiB, so that they can travel together."
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=gpu.HERE.parent, capture_output=True, text=True).stdout.split('\0')
    if not any(listed): pytest.skip('not a git clone')
    tracked = sum((gpu.HERE.parent/n).lstat().st_size for n in listed if n and (gpu.HERE.parent/n).exists())
    assert tracked + carry.PART < 64 << 20
    ignored = subprocess.run(['git', 'check-ignore', '.cifar/part0/x', '.tiny/part0/x'], cwd=gpu.HERE.parent, capture_output=True, text=True).stdout
    assert len(ignored.split()) == 2


def test_missing_data_is_unpacked_or_said(tmp_path, monkeypatch):
    import ggr_nb.train.data as d
    def tiny():
        if not (tmp_path/'data/tiny-imagenet-200.zip').exists(): raise FileNotFoundError('Tiny-ImageNet: no folder')
    monkeypatch.setattr(d, 'tiny_imagenet', tiny); monkeypatch.setattr(gpu, 'ROOT', tmp_path)
    why = gpu.data_is_there('vgg16', gpu.FULL)
    assert 'Tiny-ImageNet: no folder' in why and 'part0, part1' in why and gpu.data_is_there('speed', gpu.FULL) is None
    (tmp_path/'tiny-imagenet-200.zip').write_bytes(b'1234567'); carry.pack(tmp_path/'tiny-imagenet-200.zip', tmp_path/'.tiny', 3)
    assert gpu.data_is_there('vgg16', gpu.FULL) is None and (tmp_path/'data/tiny-imagenet-200.zip').read_bytes() == b'1234567'


def test_results_of_another_machine_are_collected_once(tmp_path, monkeypatch):
    "Runs that are finished, there or here, are no longer kept packed."
    monkeypatch.setattr(gpu, 'ROOT', tmp_path/'root'); monkeypatch.setattr(gpu, 'HERE', tmp_path/'root/benchmarks')
    there, kept = tmp_path/'there', tmp_path/'root/benchmarks/gpu_paused'
    for folder, files in (there/'paused', 'ac'), (kept, 'bd'):
        folder.mkdir(parents=True)
        for name in files: (folder/f'{name}.xz').write_bytes(b'x')
    gpu.write(there/'gpu.json', dict(sparse=entry(results=dict(a=1))))
    gpu.write(tmp_path/'root/benchmarks/gpu.json', dict(sparse=entry(results=dict(b=1)), vgg16=entry()))
    for key in ('a', 'b'): Results(there/'paper.jsonl').append(dict(key=key, accuracy=1))
    Results(tmp_path/'root/results/paper.jsonl').append(dict(key='a', accuracy=2))
    for _ in range(2): gpu.collect(there)
    found = gpu.read(tmp_path/'root/benchmarks/gpu.json')
    assert found['sparse']['results'] == dict(a=1, b=1) and found['vgg16'] == entry()
    assert [json.loads(l)['accuracy'] for l in (tmp_path/'root/results/paper.jsonl').read_text().splitlines()] == [2, 1]
    assert {f.name for f in kept.iterdir()} == {'c.xz', 'd.xz'}
