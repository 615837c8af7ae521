"""benchmarks/gpu.py cannot rot: its agreement on the pretended device, all else at toy size on this processor."""
import json, os, pickle, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch

from pretend_device import DEVICE, pretended
from test_device import KINDS, without_clocks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
import gpu
from ggr_nb.methods import METHODS
from ggr_nb.paper import sweep
from ggr_nb.paper.sweep import Job, Results, run_job
from ggr_nb.train.data import Data
from ggr_nb.train.machine import Stopped
from ggr_nb.train.runs import load_checkpoint


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "One call of the command, everything but agreement, and the one after it."
    out = tmp_path_factory.mktemp('gpu')
    where = '--toy', '--device', 'cpu', '--out', str(out)
    first = subprocess.run([sys.executable, gpu.__file__, 'speed', 'sparse', 'vgg16', 'evidence', '--minutes', '9', *where], text=True,
                           capture_output=True, env=os.environ | dict(OMP_NUM_THREADS='1'), cwd=out)
    assert first.returncode == 0, first.stderr
    seen = json.loads((out/'gpu.json').read_text())
    gpu.main(['evidence', 'speed', '--minutes', '0', *where])
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
    masks = gpu.unpacked(kept['masks'])
    assert kept['accuracy'] == found['ggr, density 0.03']['accuracy'] and gpu.unpacked(gpu.packed(masks)).keys() == masks.keys()
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


def test_without_time_every_part_says_so_and_keeps_the_others(toy):
    assert toy['second']['speed']['skipped'] == toy['second']['evidence']['skipped'] == ['no time left']
    assert toy['second']['sparse'] == toy['first']['sparse']


def test_some_items_are_measured_again_and_the_others_stay(toy, tmp_path):
    (tmp_path/'gpu.json').write_text(json.dumps(toy['first']))
    gpu.main(['speed', '--only', 'selection,batches', '--toy', '--device', 'cpu', '--out', str(tmp_path), '--commit', 'abc', '--minutes', '1e6'])
    before, after = toy['first']['speed'], json.loads((tmp_path/'gpu.json').read_text())['speed']
    assert after['again'].keys() == {'selection', 'batches'} and after['results'].keys() == before['results'].keys()
    assert {n for n in before['results'] if after['results'][n] != before['results'][n]} == {'selection', 'batches'}


def test_agreement_holds_on_the_pretended_device(tmp_path, monkeypatch):
    "The same checks as on a card, with a device on which CPU tensors and its own do not mix; one method of each kind (all of them: test_device)."
    monkeypatch.setattr(gpu, 'METHODS', {m: METHODS[m] for m in KINDS}); monkeypatch.setattr(gpu, 'STORED', ('ggr', 'srigl'))
    with pretended():
        book = gpu.Book(tmp_path/'gpu.json', DEVICE.type, 1e6)
        book.open('agreement', 1e9, 'a test'); gpu.agreement(book, gpu.TOY)
    found = json.loads((tmp_path/'gpu.json').read_text())['agreement']
    expected = {'pictures', 'topk', 'gradient', 'job', 'resume'} | {f'updates of {m}' for m in KINDS} | {f'storage of {m}' for m in gpu.STORED}
    assert found['broken'] == [] and not found['skipped'] and found['results'].keys() == expected
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


@pytest.mark.parametrize('job', [j for j in gpu.cells() if (gpu.HERE/'gpu_paused'/gpu.paused_name(j)).exists()], ids=lambda j: j.key)
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


def book_of(tmp_path, **results):
    book = gpu.Book(tmp_path/'gpu.json', 'cpu', 9)
    book.all['speed'] = dict(results=results)
    return book


def test_how_many_runs_and_whether_to_compile_follow_from_the_measurement(tmp_path):
    assert gpu.how_many(book_of(tmp_path)) == 2
    assert gpu.how_many(book_of(tmp_path, **{'side by side': {'1': 100., '2': 190., '4': 195.}})) == 2
    assert gpu.how_many(book_of(tmp_path, **{'side by side': {'1': 100., '2': 101., '4': 'skipped'}})) == 1
    ways = lambda fast, first: {'resnet18': {gpu.BEST: dict(ms=5.)}, 'resnet18 compiled': {gpu.FAST: dict(ms=fast, first_step_s=first)}}
    assert gpu.compile_pays(book_of(tmp_path, **ways(3., 30.)), 1) and not gpu.compile_pays(book_of(tmp_path, **ways(4.9, 30.)), 4)
    assert not gpu.compile_pays(book_of(tmp_path, resnet18=dict(error='no')), 1)
    dense, ggr = (Job('cifar100', 'resnet18', m, 1., 'dense', 0) for m in ('dense', 'ggr'))
    book = book_of(tmp_path, **{'side by side': {'2': 20_000.}})          # 5 million images, two at a time: 499 s, and a fifth more
    assert not gpu.fits(dense, book, 2, 590) and gpu.fits(dense, book, 2, 610) and gpu.fits(ggr, book, 2, 1)


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
    number = gpu.pack(tmp_path, tmp_path/'packed', limit=700_000, method=0)
    assert number > 1
    return tmp_path


def test_mosaics_come_back_bit_for_bit(parts):
    for given in ([parts/'packed'], sorted((parts/'packed').glob('part*'))):
        back = gpu.unpack(given, parts/'back')
        for name in ('meta', 'train', 'test'): assert (back/name).read_bytes() == (parts/'cifar-100-python'/name).read_bytes()
    assert all(sum(f.stat().st_size for f in p.glob('*.*') if f.name != 'list.json') <= 700_000 for p in (parts/'packed').iterdir())
    from PIL import Image
    assert Image.open(next((parts/'packed').rglob('train000.webp'))).size == (512, 512)


def test_damaged_and_missing_mosaics_are_named(parts):
    victim = next((parts/'packed').rglob('train001.webp')); body = bytearray(victim.read_bytes())
    body[100] ^= 1; victim.write_bytes(bytes(body))
    with pytest.raises(ValueError, match='train001.webp is damaged'): gpu.unpack([parts/'packed'], parts/'back')
    victim.unlink()
    with pytest.raises(FileNotFoundError, match='train001.webp is missing: it belongs to part'): gpu.unpack([parts/'packed'], parts/'back')
    with pytest.raises(FileNotFoundError, match='part0, part1'): gpu.unpack([parts/'back'], parts/'other')


def test_missing_data_skips_the_evidence_and_says_how_to_get_it(tmp_path, monkeypatch):
    import ggr_nb.train.data as d
    def no_data(*_): raise FileNotFoundError('CIFAR-100: no folder')
    monkeypatch.setattr(d, 'cifar100', no_data)
    why = gpu.data_is_there(gpu.FULL, [tmp_path])
    assert 'CIFAR-100: no folder' in why and 'part0, part1' in why


def test_results_of_another_machine_are_collected_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, 'ROOT', tmp_path/'root'); monkeypatch.setattr(gpu, 'HERE', tmp_path/'root/benchmarks'); (tmp_path/'root/benchmarks').mkdir(parents=True)
    there = tmp_path/'there'; (there/'paused').mkdir(parents=True); (there/'paused/a.xz').write_bytes(b'x')
    (there/'gpu.json').write_text('{"speed": {"results": 2}}'); (tmp_path/'root/benchmarks/gpu.json').write_text('{"speed": 1, "sparse": 3}')
    for key in ('a', 'b'): Results(there/'paper.jsonl').append(dict(key=key, accuracy=1))
    Results(tmp_path/'root/results/paper.jsonl').append(dict(key='a', accuracy=2))
    for _ in range(2): gpu.collect(there)
    assert json.loads((tmp_path/'root/benchmarks/gpu.json').read_text()) == {'speed': {'results': 2}, 'sparse': 3}
    assert [json.loads(l)['accuracy'] for l in (tmp_path/'root/results/paper.jsonl').read_text().splitlines()] == [2, 1]
    assert (tmp_path/'root/benchmarks/gpu_paused/a.xz').exists()
