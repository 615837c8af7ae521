"""Data: augmentation against a picture-by-picture reference, repeatability, and files that are missing, cut off or wrong."""
import math, os, pickle, subprocess, sys, tarfile, textwrap, time, zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from hashlib import md5
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as TF

from conftest import forked
from ggr_nb.train import data as data_module, files as files_module
from ggr_nb.train.data import (DATASETS, Data, cifar10, cifar100, digits, draws, mnist, moments, normalised, picked, sources,
                               tiny_imagenet)
from ggr_nb.train.files import cached, roots, tiny_listing, tiny_tree

UNIT = 2**14
CACHE = os.environ.get('GGR_CACHE')


def real(make, **kwargs):
    "A data set from the disk, or the test is skipped with the place where it was looked for."
    try: return make(**kwargs)
    except FileNotFoundError as e: pytest.skip(str(e))


@pytest.fixture(scope='session')
def numbers(): return digits()


@pytest.fixture(autouse=True)
def no_cache_named(monkeypatch): monkeypatch.delenv('GGR_CACHE', raising=False)


def noise(n, c=3, h=32, w=32, seed=0):
    return torch.randint(1, 256, (n, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def colourful(n=300, classes=5, **kwargs):
    "A data set of random bytes with all augmentation on."
    x, y = noise(n), torch.arange(n) % classes
    return Data('noise', (x, y), (x[:50], y[:50]), classes, (.5, .4, .3), (.2, .3, .25), **(dict(pad=4, flip=True, rotate=15.) | kwargs))


# --- augmentation -----------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 4), st.integers(0, 99))
def test_shift_and_mirror_are_those_of_torchvision(h, w, c, pad, seed):
    x, d = noise(6, c, h, w, seed), draws(6, seed, 0, pad, True)
    margin = max(pad, 1)
    ours = picked(x, sources((h, w), margin, d.dy, d.dx, d.flip), margin)
    for i in range(6):
        ref = TF.crop(F.pad(x[i], (pad,) * 4), pad + d.dy[i].item(), pad + d.dx[i].item(), h, w)
        assert ours[i].equal(TF.hflip(ref) if d.flip[i] else ref)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.floats(-180, 180), st.booleans(), st.integers(0, 99))
def test_a_turn_shows_the_nearest_pixel(h, w, pad, degrees, mirror, seed):
    "Against double precision, pixel by pixel; only where a coordinate is half-way may they differ."
    x, margin, a = noise(1, 1, h, w, seed), max(pad, 1), math.radians(degrees)
    cos, sin = round(math.cos(a) * UNIT), round(math.sin(a) * UNIT)
    dy, dx = (torch.tensor([v]) for v in np.random.default_rng(seed).integers(-pad, pad + 1, 2))
    ours = picked(x, sources((h, w), margin, dy, dx, torch.tensor([mirror]), (torch.tensor([cos], dtype=torch.int32), torch.tensor([sin], dtype=torch.int32))), margin)[0, 0]
    shifted = F.pad(x[0, 0], (margin,) * 4)[margin + dy:margin + dy + h, margin + dx:margin + dx + w]
    if mirror: shifted = shifted.flip(1)
    for i in range(h):
        for j in range(w):
            y, z = i - (h - 1) / 2, j - (w - 1) / 2
            row = (y * cos - z * sin) / UNIT + (h - 1) / 2
            col = (y * sin + z * cos) / UNIT + (w - 1) / 2
            if any(abs(v % 1 - .5) < 1e-6 for v in (row, col)): continue
            row, col = math.floor(row + .5), math.floor(col + .5)
            expected = shifted[row, col] if 0 <= row < h and 0 <= col < w else 0
            assert ours[i, j] == expected, (i, j)


def test_a_turn_agrees_with_torchvision_but_for_rounding():
    x, d = noise(40), draws(40, 3, 0, rotate=15.)
    ours = picked(x, sources((32, 32), 1, d.dy, d.dx, d.flip, (d.cos, d.sin)), 1)
    angle = torch.rad2deg(torch.atan2(d.sin.double(), d.cos.double()))
    theirs = [torch.stack([TF.rotate(i, s * a.item()) for i, a in zip(x, angle)]) for s in (1, -1)]
    same = max((ours == t).float().mean().item() for t in theirs)      # a positive angle is one way or the other
    assert same > .98, same


def test_draws_are_uniform_and_of_one_address():
    d = draws(20_000, 7, 2, 4, True, 15.)
    for shift in (d.dy, d.dx):
        counts = (shift + 4).bincount(minlength=9)
        assert len(counts) == 9 and ((counts - 20_000 / 9)**2 / (20_000 / 9)).sum() < 35   # chi², 8 degrees: p < 3e-5
    assert abs(d.flip.float().mean() - .5) < .02
    angle = torch.rad2deg(torch.atan2(d.sin.double(), d.cos.double()))
    assert angle.abs().max() <= 15.01 and abs(angle.std() - 15 / 3**.5) < .15 and abs(angle.mean()) < .3
    assert abs(torch.corrcoef(torch.stack([d.dy, d.dx, d.flip, angle]).double()) - torch.eye(4)).max() < .04
    torch.manual_seed(99); torch.rand(5)                               # the global generator has no say
    assert all(a.equal(b) for a, b in zip(d, draws(20_000, 7, 2, 4, True, 15.)))
    assert not d.dy.equal(draws(20_000, 7, 3, 4, True, 15.).dy) and not d.dy.equal(draws(20_000, 8, 2, 4, True, 15.).dy)


def test_pictures_of_an_epoch_do_not_share_a_shift():
    data = colourful(rotate=0.)
    x, d = data.train[0], draws(300, 0, 0, 4, True)
    assert len({(a, b) for a, b in zip(d.dy[:128].tolist(), d.dx[:128].tolist())}) > 40


def test_normalised_is_the_formula_in_double_precision_to_one_rounding():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    mean, std = (.5071, .4865, .4409), (.2673, .2564, .2762)
    exact = (x.double() / 255 - torch.tensor(mean, dtype=torch.float64)[:, None, None]) / torch.tensor(std, dtype=torch.float64)[:, None, None]
    assert (normalised(x, mean, std) - exact).abs().max() < 5e-7
    last = normalised(x, mean, std, torch.bfloat16, channels_last=True)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert last.equal(normalised(x, mean, std).bfloat16())


# --- batches ----------------------------------------------------------------------------------------------------

def test_batches_repeat_whatever_the_threads():
    data, held = colourful(), torch.get_num_threads()
    one = list(data.batches('train', 64, epoch=1, seed=5))
    torch.set_num_threads(2)
    try: two = list(data.batches('train', 64, epoch=1, seed=5))
    finally: torch.set_num_threads(held)
    assert all(a.equal(b) and i.equal(j) for (a, i), (b, j) in zip(one, two, strict=True))


def test_batch_size_does_not_change_the_pictures():
    data = colourful()
    whole = torch.cat([x for x, _ in data.batches('train', 300)])
    assert torch.cat([x for x, _ in data.batches('train', 60)]).equal(whole)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(['train', 'test']), st.integers(1, 6), st.integers(1, 40), st.integers(0, 3))
def test_ranks_together_see_the_global_batch(split, world, batch, start):
    data = colourful(50, pad=1)
    if split == 'train': batch = max(batch // world * world, world)
    start = min(start, data.steps(split, batch))
    whole = list(data.batches(split, batch, epoch=2, start=start))
    parts = [list(data.batches(split, batch, epoch=2, start=start, rank=r, world=world)) for r in range(world)]
    assert sum(len(y) for part in parts for _, y in part) == sum(len(y) for _, y in whole)
    if split == 'train':
        for step, (x, y) in enumerate(whole):
            assert torch.cat([p[step][0] for p in parts]).equal(x) and torch.cat([p[step][1] for p in parts]).equal(y)
    else:
        seen = sorted(x.sum().item() for part in parts for b, _ in part for x in b.double())
        assert seen == sorted(x.sum().item() for b, _ in whole for x in b.double())


@pytest.mark.parametrize('split', ['train', 'test'])
def test_a_resumed_epoch_is_the_rest_of_it(split):
    data = colourful()
    whole = list(data.batches(split, 16, epoch=1, augment=True))
    for start in (0, 1, len(whole) - 1, len(whole)):
        rest = list(data.batches(split, 16, epoch=1, augment=True, start=start))
        assert all(a.equal(b) and i.equal(j) for (a, i), (b, j) in zip(whole[start:], rest, strict=True))


def test_each_epoch_shows_each_picture_once_and_drops_the_rest():
    x = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 1, 4, 4).contiguous()
    data = Data('steps', (x, torch.zeros(100, dtype=torch.int64)), (x, torch.zeros(100, dtype=torch.int64)), 1, (0.,), (1 / 255,))
    seen = [torch.cat([b[:, 0, 0, 0] for b, _ in data.batches('train', 30, epoch=e)]).int().tolist() for e in range(20)]
    assert all(len(set(s)) == 90 for s in seen) and seen[0] != seen[1]
    assert set(range(100)) == set().union(*seen)
    assert torch.cat([b[:, 0, 0, 0] for b, _ in data.batches('test', 30)]).int().tolist() == list(range(100))


def test_test_pictures_are_never_disturbed_unless_asked():
    data = colourful()
    plain = normalised(data.test[0], data.mean, data.std)
    assert torch.cat([x for x, _ in data.batches('test', 16, epoch=4)]).equal(plain)
    assert not torch.cat([x for x, _ in data.batches('test', 16, augment=True)]).equal(plain)
    still = torch.cat([x for x, _ in data.batches('train', 100, augment=False)])
    assert still.equal(normalised(data.train[0][draws(300, 0, 0).order], data.mean, data.std))


def test_wrong_requests_fail_before_the_first_batch():
    data = colourful()
    for kwargs, words in ((dict(batch=0), 'give 1'), (dict(batch=301), '300 train'), (dict(batch=64, world=3), 'multiple of 3'),
                          (dict(batch=64, rank=1), 'rank 1 of world 1'), (dict(batch=64, rank=-1), 'rank -1'), (dict(batch=64, start=9), '4 steps')):
        with pytest.raises(ValueError, match=words): data.batches('train', **kwargs)
    with pytest.raises(ValueError, match="unknown split 'val'"): data.batches('val', 64)


def test_wrong_arrays_are_refused():
    x, y = noise(6, 1, 4, 4), torch.arange(6) % 3
    ok = dict(name='n', train=(x, y), test=(x, y), classes=3, mean=(.5,), std=(.2,))
    Data(**ok)
    for change, words in ((dict(classes=2), 'labels run from 0 to 2; with 2 classes'), (dict(train=(x, y - 1)), 'from -1 to 1'),
                          (dict(train=(x.float(), y)), 'float32'), (dict(test=(x, y[:5])), 'int64 of shape'), (dict(test=(x, y.int())), 'int32'),
                          (dict(test=(x[:0], y[:0])), 'no images'), (dict(test=(x[:, :, :3], y)), 'test images'), (dict(mean=(.5, .5)), 'one per channel'),
                          (dict(std=(0.,)), 'above 0'), (dict(pad=4), '0 … 3'), (dict(pad=-1), 'pad -1'), (dict(rotate=200.), '180 degrees'), (dict(names=('a',)), '1 names')):
        with pytest.raises(ValueError, match=words): Data(**(ok | change))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_the_device_makes_the_same_bits():
    for data in (colourful(), colourful(rotate=0.)):
        for form in (dict(), dict(dtype=torch.bfloat16, channels_last=True)):
            for (a, i), (b, j) in zip(data.batches('train', 64, 1, 2, **form), data.batches('train', 64, 1, 2, 'cuda', **form), strict=True):
                assert b.is_cuda and j.is_cuda and a.equal(b.cpu()) and i.equal(j.cpu())


# --- digits -----------------------------------------------------------------------------------------------------

def test_digits_are_stratified_and_seeded(numbers):
    from sklearn.datasets import load_digits
    raw = load_digits()
    (x, y), (tx, ty) = numbers.train, numbers.test
    both = torch.cat([x, tx]).flatten(1) // 15
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, raw.data.astype(int).tolist()))
    assert [round(n * .2) for n in np.bincount(raw.target)] == ty.bincount().tolist()
    again, other = digits(), digits(seed=1)
    assert again.train[0].equal(x) and again.test[1].equal(ty) and not other.test[0].equal(tx)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, ggr_nb.train.data; print([m for m in ('sklearn', 'torchvision', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == '[]'


def test_a_part_is_stratified_and_keeps_the_scale(numbers):
    few = numbers.part(train=70, seed=3)
    assert few.train[1].bincount().tolist() == [7] * 10 and few.test[0].data_ptr() == numbers.test[0].data_ptr()
    assert (few.mean, few.std, few.classes) == (numbers.mean, numbers.std, 10)
    assert few.train[0].equal(numbers.part(train=70, seed=3).train[0]) and not few.train[0].equal(numbers.part(train=70).train[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_a_part_of_sorted_files_has_every_class_in_its_share(sizes, share, seed):
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)]); n = max(1, round(share * len(y)))
    data = Data('sorted', (noise(len(y), 1, 4, 4), y), (noise(2, 1, 4, 4), torch.tensor([0, 1])), len(sizes), (.5,), (.2,))
    got = data.part(train=n, seed=seed).train
    assert len(got[1]) == n and all(abs(g - n * m / len(y)) < 1 for g, m in zip(got[1].bincount(minlength=len(sizes)).tolist(), sizes))
    rows = {tuple(x.flatten().tolist()) for x in got[0]}
    assert len(rows) == n and rows <= {tuple(x.flatten().tolist()) for x in data.train[0]}


@pytest.mark.parametrize('wrong', [0, -49000, 2.5, '10', True, 1439, float('nan')])
def test_an_impossible_part_is_refused(numbers, wrong):
    with pytest.raises(ValueError, match='give a whole number from 1 to 1,438'): numbers.part(train=wrong)


def test_what_is_held_out_is_stratified_seeded_and_gone_from_training(numbers):
    a, b, c = numbers.hold_out(.1), numbers.hold_out(.1), numbers.hold_out(.1, seed=1)
    counts = numbers.train[1].bincount().tolist()
    assert a.test[1].bincount().tolist() == [round(n * .1) for n in counts] and len(a.train[1]) + len(a.test[1]) == sum(counts)
    assert a.test[0].equal(b.test[0]) and not a.test[0].equal(c.test[0])
    both = torch.cat([a.train[0], a.test[0]]).flatten(1).tolist()
    assert sorted(both) == sorted(numbers.train[0].flatten(1).tolist())
    for wrong in (0, 1, -.1, .0001, float('nan')):
        with pytest.raises(ValueError, match='share'): numbers.hold_out(wrong)


def test_a_changed_set_does_not_share_what_lies_on_a_device(numbers):
    x, y = numbers.train
    numbers.on('train', 'meta')
    for other in (replace(numbers, train=(x[:10], y[:10])), numbers.part(train=10)):
        assert len(other.on('train', 'meta')[1]) == 10 and len(numbers.on('train', 'meta')[1]) == len(y)
    numbers.placed.clear()


def test_evaluation_draws_nothing(numbers, monkeypatch):
    def none(*a, **kw): raise AssertionError('drawn')
    monkeypatch.setattr(data_module, 'draws', none)
    assert sum(len(y) for _, y in numbers.batches('test', 100)) == len(numbers.test[1])
    with pytest.raises(AssertionError, match='drawn'): next(numbers.batches('train', 100))


def test_labels_of_a_test_batch_are_the_callers_own(numbers):
    before = numbers.test[1].clone()
    for _, y in numbers.batches('test', 100): y.fill_(3)
    assert numbers.test[1].equal(before)


# --- places -----------------------------------------------------------------------------------------------------

def test_roots_in_their_order(tmp_path, monkeypatch):
    (tmp_path / 'project' / 'nbs').mkdir(parents=True)
    monkeypatch.setenv('GGR_DATA', str(tmp_path / 'x')); monkeypatch.chdir(tmp_path / 'project' / 'nbs')
    here = tmp_path / 'project' / 'nbs'
    assert roots() == [tmp_path / 'x', here / 'data', Path.home() / '.cache' / 'ggr_nb']
    (here.parent / 'settings.ini').touch()
    assert roots()[1] == here.parent / 'data'
    assert roots('~/z') == [Path.home() / 'z']


@pytest.mark.parametrize('root', ['~nobody-of-this-name/x', 'x' * 300, '/dev/null/x'])
@pytest.mark.parametrize('make', [cifar100, tiny_imagenet, mnist])
def test_an_odd_root_is_data_that_is_not_there(make, root):
    with pytest.raises(FileNotFoundError, match='no fold'): make(root)


@pytest.mark.parametrize('make, words', [(cifar100, 'cifar100(download=True)'), (cifar10, 'cifar10(download=True)'), (mnist, 'mnist(download=True)'), (tiny_imagenet, 'tiny-imagenet-200.zip')])
def test_missing_data_says_where_and_how(make, words, tmp_path, monkeypatch):
    for var in ('GGR_DATA', 'HOME'): monkeypatch.setenv(var, str(tmp_path / var))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as e: make()
    text = str(e.value)
    assert all(str(p) in text for p in roots()) and words in text and 'does not exist' in text and 'GGR_DATA' in text


# --- CIFAR-100 --------------------------------------------------------------------------------------------------

@pytest.fixture
def little_cifar(tmp_path, monkeypatch):
    "A CIFAR-100 of 40 + 20 pictures in torchvision's layout, whose sums torchvision accepts."
    folder = tmp_path / 'there' / 'cifar-100-python'; folder.mkdir(parents=True)
    def put(name, what):
        raw = pickle.dumps(what); (folder / name).write_bytes(raw); return md5(raw).hexdigest()
    x = noise(60).flatten(1).numpy()
    sums = {'train': put('train', dict(data=x[:40], fine_labels=[i % 100 for i in range(40)])),
            'test': put('test', dict(data=x[40:], fine_labels=list(range(80, 100)))),
            'meta': put('meta', dict(fine_label_names=[f'class {i}' for i in range(100)]))}
    with tarfile.open(tmp_path / 'cifar-100-python.tar.gz', 'w:gz') as t: t.add(folder, 'cifar-100-python')
    C = datasets.CIFAR100
    monkeypatch.setattr(C, 'train_list', [['train', sums['train']]]); monkeypatch.setattr(C, 'test_list', [['test', sums['test']]])
    monkeypatch.setattr(C, 'meta', dict(C.meta, md5=sums['meta']))
    archive = tmp_path / 'cifar-100-python.tar.gz'
    monkeypatch.setattr(C, 'tgz_md5', md5(archive.read_bytes()).hexdigest())
    return folder, x


def test_cifar_pixels_and_labels_are_where_they_belong(little_cifar):
    folder, x = little_cifar
    data = cifar100(folder.parent)
    assert data.train[0].flatten(1).equal(torch.from_numpy(x[:40])) and data.train[0].is_contiguous()
    assert data.train[1].tolist() == list(range(40)) and data.test[1].tolist() == list(range(80, 100))
    assert data.names[3] == 'class 3' and (data.pad, data.flip, data.rotate) == (4, True, 15.)
    assert cifar100(folder.parent, rotate=0.).rotate == 0.


@pytest.mark.parametrize('harm', [lambda raw: raw[:-100], lambda raw: b'not a pickle', lambda raw: raw[:500] + b'x' + raw[501:]])
def test_a_damaged_cifar_file_is_named(little_cifar, harm):
    path = little_cifar[0] / 'train'; path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match='damaged') as e: cifar100(path.parent.parent)
    assert str(path) in str(e.value) and 'download=True' in str(e.value) and str(path.parent / 'test') not in str(e.value)


def test_cifar_labels_out_of_range(little_cifar, monkeypatch):
    folder = little_cifar[0]
    raw = pickle.dumps(dict(data=little_cifar[1][:40], fine_labels=[100] * 40)); (folder / 'train').write_bytes(raw)
    monkeypatch.setattr(datasets.CIFAR100, 'train_list', [['train', md5(raw).hexdigest()]])
    with pytest.raises(ValueError, match='100; with 100 classes'): cifar100(folder.parent)


@pytest.fixture
def served(tmp_path):
    "The address of a server of the files in tmp_path."
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(type('Quiet', (SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None)), directory=tmp_path))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown(); server.server_close()


def test_cifar_is_fetched_only_when_allowed(little_cifar, tmp_path, served, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR100, 'url', f'{served}/cifar-100-python.tar.gz')
    with pytest.raises(FileNotFoundError): cifar100(tmp_path / 'new')
    assert not (tmp_path / 'new').exists()
    assert len(cifar100(tmp_path / 'new', download=True).train[1]) == 40


def test_a_cifar_archive_is_unpacked_without_a_network(little_cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR100, 'url', 'http://127.0.0.1:9/nothing')
    assert len(cifar100(tmp_path).train[1]) == 40                       # the archive lies in tmp_path
    with pytest.raises(OSError, match='could not be fetched from http://127.0.0.1:9'): cifar100(tmp_path / 'new', download=True)


@pytest.mark.parametrize('harm', [lambda raw: raw[:-50], lambda raw: raw[:99] + bytes([raw[99] ^ 1]) + raw[100:], lambda raw: b''])
def test_a_broken_archive_starts_no_download(little_cifar, tmp_path, served, monkeypatch, harm):
    whole = tmp_path / 'cifar-100-python.tar.gz'
    (tmp_path / 'net').mkdir(); (tmp_path / 'net' / whole.name).write_bytes(whole.read_bytes())
    monkeypatch.setattr(datasets.CIFAR100, 'url', f'{served}/net/{whole.name}')
    (tmp_path / 'only').mkdir(); archive = tmp_path / 'only' / whole.name; archive.write_bytes(harm(whole.read_bytes())); before = archive.read_bytes()
    with pytest.raises(ValueError, match='wrong MD5') as e: cifar100(tmp_path / 'only')
    assert str(archive) in str(e.value) and '\n' not in str(e.value) and archive.read_bytes() == before and len(list((tmp_path / 'only').iterdir())) == 1
    assert len(cifar100(tmp_path / 'only', download=True).train[1]) == 40     # asked for, it is mended


def idx(array):
    "A file in MNIST's format."
    return bytes([0, 0, 8, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.numpy().tobytes()


def test_mnist_is_read_and_its_damage_named(tmp_path):
    raw = tmp_path / 'MNIST' / 'raw'; raw.mkdir(parents=True)
    for part, n in (('train', 30), ('t10k', 20)):
        (raw / f'{part}-images-idx3-ubyte').write_bytes(idx(noise(n, 1, 28, 28)[:, 0])); (raw / f'{part}-labels-idx1-ubyte').write_bytes(idx((torch.arange(n) % 10).byte()))
    data = mnist(tmp_path)
    assert repr(data) == 'mnist: 30 training and 20 test images of 1×28×28, 10 classes' and data.train[0].equal(noise(30, 1, 28, 28))
    from ggr_nb.train.models import lenet
    assert lenet()(next(data.batches('train', 5))[0]).shape == (5, 10)
    path = raw / 'train-images-idx3-ubyte'; path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match='MNIST is damaged') as e: mnist(tmp_path)
    assert '\n' not in str(e.value)


def test_cifar10_is_read(tmp_path, monkeypatch):
    folder = tmp_path / 'cifar-10-batches-py'; folder.mkdir(); C = datasets.CIFAR10; x = noise(60).flatten(1).numpy()
    def put(name, what):
        raw = pickle.dumps(what); (folder / name).write_bytes(raw); return [name, md5(raw).hexdigest()]
    monkeypatch.setattr(C, 'train_list', [put('data_batch_1', dict(data=x[:40], labels=[i % 10 for i in range(40)]))])
    monkeypatch.setattr(C, 'test_list', [put('test_batch', dict(data=x[40:], labels=[i % 10 for i in range(20)]))])
    monkeypatch.setattr(C, 'meta', dict(C.meta, md5=put('batches.meta', dict(label_names=[f'class {i}' for i in range(10)]))[1]))
    data = cifar10(tmp_path)
    assert data.train[0].flatten(1).equal(torch.from_numpy(x[:40])) and data.names[3] == 'class 3' and data.classes == 10
    with pytest.raises(FileNotFoundError): cifar100(tmp_path)


def test_real_cifar():
    data = real(cifar100)
    assert repr(data) == 'cifar100: 50000 training and 10000 test images of 3×32×32, 100 classes'
    assert data.train[1].bincount().tolist() == [500] * 100 and data.test[1].bincount().tolist() == [100] * 100
    mean, std = moments(data.train[0])
    assert torch.allclose(torch.tensor([mean, std]), torch.tensor([data.mean, data.std]), atol=1e-4)
    assert (data.names[0], data.names[99]) == ('apple', 'worm')
    x, y = next(data.batches('train', 128))
    assert abs(x.mean()) < .4 and y.unique().numel() > 50


# --- Tiny-ImageNet ----------------------------------------------------------------------------------------------

def tiny_files(counts={'n9': 2, 'n10': 3, 'n2': 1}, val=2, size=64):
    "Name -> bytes of a Tiny-ImageNet; class c, picture j has the grey value 20c + j; the first of a class is grey-scale."
    def jpeg(value, channels):
        file = BytesIO(); Image.new('L', (size, size), value).convert('L' if channels == 1 else 'RGB').save(file, 'JPEG', quality=100)
        return file.getvalue()
    files, notes = {'wnids.txt': ('\n'.join(counts) + '\n').encode()}, []
    for c, (w, n) in enumerate(counts.items()):
        for j in range(n): files[f'train/{w}/images/{w}_{j * 5}.JPEG'] = jpeg(20 * c + j, 1 if j == 0 else 3)
        files[f'train/{w}/{w}_boxes.txt'] = b'0'
        for j in range(val):
            files[f'val/images/val_{c + len(counts) * j}.JPEG'] = jpeg(20 * c + 100 + j, 3)
            notes.append(f'val_{c + len(counts) * j}.JPEG\t{w}\t0\t0\t9\t9')
    files['val/val_annotations.txt'] = ('\n'.join(notes) + '\nval_999.JPEG\tn9\t0\t0\t9\t9\n').encode()   # one picture is not there
    files['test/images/test_0.JPEG'] = jpeg(7, 3)                       # has no label: must be left alone
    return files


def as_zip(path, files):
    with zipfile.ZipFile(path, 'w') as z:
        for name, raw in files.items(): z.writestr('tiny-imagenet-200/' + name, raw)
    return path


def as_folder(path, files):
    for name, raw in files.items(): (path / name).parent.mkdir(parents=True, exist_ok=True); (path / name).write_bytes(raw)
    return path


def check_tiny(data):
    assert data.names == ('n10', 'n2', 'n9') and data.classes == 3
    assert data.train[1].tolist() == [1, 2, 2, 0, 0, 0]                 # in the order of the numbers: n2, n9, n10
    assert data.train[0][:, :, 30, 30].tolist() == [[v] * 3 for v in (40, 0, 1, 20, 21, 22)]
    assert data.test[1].tolist() == [2, 0, 1, 2, 0, 1]                  # the order of wnids.txt is n9, n10, n2
    assert data.test[0][:, :, 5, 60].tolist() == [[v] * 3 for v in (100, 120, 140, 101, 121, 141)]


def test_tiny_from_a_zip_and_from_a_folder(tmp_path):
    files = tiny_files()
    for place in (as_zip(tmp_path / 'tiny-imagenet-200.zip', files), as_folder(tmp_path / 'f' / 'tiny-imagenet-200', files)):
        for root in (place, place.parent): check_tiny(tiny_imagenet(root, cache=tmp_path / 'cache'))
    assert {p.name for p in (tmp_path / 'cache').iterdir()} == {*(f'tiny-imagenet-200{kind}.{end}' for kind in ('', '.zip') for end in ('json', 'u8'))}


def test_tiny_decodes_once_and_again_when_the_data_changed(tmp_path, monkeypatch):
    path, calls, check = as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()), [], files_module.Tree.check
    monkeypatch.setattr(files_module.Tree, 'check', lambda tree: (calls.append(1), check(tree)))
    tiny_imagenet(tmp_path); tiny_imagenet(tmp_path); assert len(calls) == 1
    x = tiny_imagenet(tmp_path).train[0]
    as_zip(path, tiny_files({'n9': 4, 'n10': 3, 'n2': 1}))
    assert tiny_imagenet(tmp_path).train[1].tolist() == [1, 2, 2, 2, 2, 0, 0, 0] and len(calls) == 2
    assert x[:, 0, 0, 0].tolist() == [40, 0, 1, 20, 21, 22]             # who had the old one open keeps it
    files = tiny_files({'n9': 4, 'n10': 3, 'n2': 1})
    files['val/val_annotations.txt'] = files['val/val_annotations.txt'].replace(b'val_0.JPEG\tn9', b'val_0.JPEG\tn10')
    as_zip(path, files)                                                 # the same pictures, one other label
    assert tiny_imagenet(tmp_path).test[1][0] == 0 and len(calls) == 3


def test_tiny_notices_other_pixels_under_the_same_names(tmp_path):
    files = tiny_files(); name = 'train/n9/images/n9_5.JPEG'; other = files | {name: files['train/n10/images/n10_5.JPEG']}
    for write in (as_zip, as_folder):
        place = tmp_path / write.__name__
        assert tiny_imagenet(write(place, files), cache=tmp_path).train[0][2, 0, 0, 0] == 1
        assert tiny_imagenet(write(place, other), cache=tmp_path).train[0][2, 0, 0, 0] == 21


def test_a_cut_off_zip_is_refused_wherever_it_is_cut(tmp_path):
    path = as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()); whole = path.read_bytes()
    for at in (0, 1, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:at])
        with pytest.raises(ValueError, match='cut off, damaged or no zip') as e: tiny_imagenet(tmp_path)
        assert str(path) in str(e.value) and 'tiny-imagenet-200.zip' in str(e.value) and str(at) in str(e.value)
    assert not list(tmp_path.glob('*.u8'))


def test_wrong_contents_are_named(tmp_path):
    def changed(**kwargs): return tiny_files() | {k.replace('__', '/').replace('_dot_', '.'): v for k, v in kwargs.items()}
    files = tiny_files(); note = files['val/val_annotations.txt']
    cases = [({k: v for k, v in files.items() if k != 'val/val_annotations.txt'}, 'no val/val_annotations.txt'),
             (files | {'val/val_annotations.txt': note.replace(b'n10', b'n77')}, 'class n77'),
             (files | {'val/val_annotations.txt': note.replace(b'val_1.JPEG', b'val_x.JPEG')}, 'val_1.JPEG has class None'),
             (files | {'wnids.txt': b'n9\nn10\n'}, 'class n2, which is not among the 2'),
             (files | {'wnids.txt': b'n9\nn10\nn2\nn5\n'}, 'no training images of class n5'),
             (files | {'train/n9/images/n9_5.JPEG': b'no jpeg'}, 'n9_5.JPEG is damaged'),
             (files | {'train/n9/images/n9_5.JPEG': files['train/n9/images/n9_5.JPEG'][:200]}, 'n9_5.JPEG is damaged'),
             (files | {'train/n9/images/n9_5.JPEG': b''}, 'n9_5.JPEG is damaged'),
             ({k: v for k, v in files.items() if 'wnids' not in k}, 'holds no wnids.txt'),
             (tiny_files(size=32), r'it is \(32, 32\)'), (tiny_files(val=0), 'no validation images'),
             (files | {'val/val_annotations.txt': b'\xff\xfe\t'}, 'it is no text')]
    for i, (what, words) in enumerate(cases):
        with pytest.raises(ValueError, match=words): tiny_imagenet(as_zip(tmp_path / f'{i}.zip', what), cache=tmp_path)
        assert not (tmp_path / f'{i}.zip.json').exists(), words
    assert not list(tmp_path.glob('*.part'))


def test_a_flipped_bit_inside_the_zip_is_noticed(tmp_path):
    path = as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()); raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z: at = z.getinfo('tiny-imagenet-200/train/n9/images/n9_5.JPEG').header_offset
    raw[at + 400] ^= 1; path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match='n9_5.JPEG is damaged: .*CRC'): tiny_imagenet(path, cache=tmp_path)


@pytest.mark.parametrize('character', ['\n', '\r', '\0', '\x1b', '\x85'], ids=repr)
def test_a_name_that_holds_any_character_is_told_in_one_line(tmp_path, character):
    path = as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()); raw = bytearray(path.read_bytes())
    at = raw.index(b'n9_5.JPEG', raw.index(b'PK\x01\x02')); raw[at + 2] = character.encode('latin-1')[0]; path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match='Fetch it again') as e: tiny_imagenet(path, cache=tmp_path)
    assert len(str(e.value).splitlines()) == 1 and str(e.value).isprintable(), repr(str(e.value))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_anywhere_in_the_zip_is_the_same_or_one_clear_line(tmp_path_factory, data):
    "Names, offsets, flags, sizes, checksums, contents: the outcome is what it was, or a line that names the zip; never fewer images."
    folder = tmp_path_factory.getbasetemp() / 'bytes'; folder.mkdir(exist_ok=True)
    path = folder / 'whole.zip'
    if not path.exists(): as_zip(path, tiny_files())
    raw = bytearray(path.read_bytes()); directory = raw.index(b'PK\x01\x02')
    at = data.draw(st.integers(directory, len(raw) - 1) | st.integers(0, len(raw) - 1)); raw[at] ^= data.draw(st.integers(1, 255))
    bad = folder / 'bad.zip'; bad.write_bytes(raw)
    for left in folder.glob('bad.zip.*'): left.unlink()
    try: check_tiny(tiny_imagenet(bad))
    except ValueError as e: assert str(bad) in str(e) and '\n' not in str(e), repr(str(e))


def test_an_entry_lost_from_the_directory_is_noticed(tmp_path):
    "The zip's directory is whole and says nothing of one image, whose bytes are still there."
    path = tmp_path / 'tiny-imagenet-200.zip'
    for lost in ('train/n9/images/n9_5.JPEG', 'val/images/val_5.JPEG', 'test/images/test_0.JPEG'):
        with zipfile.ZipFile(path, 'w') as z:
            for name, raw in tiny_files().items(): z.writestr('tiny-imagenet-200/' + name, raw)
            z.filelist = [i for i in z.filelist if not i.filename.endswith(lost)]
        with pytest.raises(ValueError, match='is damaged'): tiny_imagenet(path)


@pytest.mark.parametrize('name', ['wnids.txt', 'val/val_annotations.txt', 'train/n9/images/n9_5.JPEG'])
def test_a_small_zip_with_a_huge_entry_is_refused_before_it_is_inflated(tmp_path, name, monkeypatch):
    with zipfile.ZipFile(tmp_path / 'bomb.zip', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for n, raw in tiny_files().items():
            if n != name: z.writestr('t/' + n, raw)
        with z.open('t/' + name, 'w', force_zip64=True) as f:
            for _ in range(64): f.write(bytes(2**20))
    read, inflated = zipfile.ZipFile.read, []
    monkeypatch.setattr(zipfile.ZipFile, 'read', lambda z, i, *a: (inflated.append(i.file_size), read(z, i, *a))[1])
    with pytest.raises(ValueError, match=f'{name} would have 67,108,864 bytes'): tiny_imagenet(tmp_path / 'bomb.zip')
    assert max(inflated, default=0) < 10**6


def test_an_encrypted_zip_is_refused_by_name(tmp_path):
    path = as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()); raw = bytearray(path.read_bytes()); at = 0
    while (at := raw.find(b'PK\x01\x02', at)) >= 0: raw[at + 8] |= 1; at += 4
    path.write_bytes(raw)
    with pytest.raises(ValueError, match='is encrypted'): tiny_imagenet(path)


def test_a_huge_image_in_a_small_jpeg_is_not_unpacked(tmp_path):
    file = BytesIO(); Image.new('L', (9000, 9000)).save(file, 'JPEG')
    raw = file.getvalue(); raw = raw[:2**20 - 1]                        # the size stands in its head
    with pytest.raises(ValueError, match=r'n9_5.JPEG is damaged: it is \(9000, 9000\)'):
        tiny_imagenet(as_zip(tmp_path / 'z.zip', tiny_files() | {'train/n9/images/n9_5.JPEG': raw}))


def test_the_shorter_name_wins_and_a_folder_before_a_zip(tmp_path):
    as_zip(tmp_path / 'tiny-imagenet-200-subset.zip', tiny_files({'n9': 1, 'n10': 1, 'n2': 1}))
    assert len(tiny_imagenet(tmp_path).train[1]) == 3
    as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()); assert len(tiny_imagenet(tmp_path).train[1]) == 6
    as_folder(tmp_path / 'tiny-imagenet-200', tiny_files({'n9': 1, 'n10': 1, 'n2': 2})); assert len(tiny_imagenet(tmp_path).train[1]) == 4


def test_real_tiny(tmp_path_factory):
    data = real(tiny_imagenet, cache=CACHE)                             # by default, cached beside the data or at home
    source = tiny_tree(); _, train, val = tiny_listing(source)
    assert (len(train), len(val)) == (len(data.train[1]), len(data.test[1])) and data.classes == 200
    per_class = Counter(n.split('/')[1] for n in source.stamps if n.startswith('train/') and n.endswith('.JPEG'))
    assert data.train[1].bincount().tolist() == [per_class[w] for w in data.names]
    notes = dict(l.split('\t')[:2] for l in source.read('val/val_annotations.txt', 2**30).decode().splitlines())
    grey = 0
    for i in range(0, len(val), max(1, len(val) // 150)):
        name, label = val[i]; picture = Image.open(BytesIO(source.read(name, 2**20))); grey += picture.mode == 'L'
        assert data.names[data.test[1][i]] == notes[name.split('/')[-1]]
        theirs = torch.from_numpy(np.array(picture.convert('RGB'))).permute(2, 0, 1)
        assert (theirs.int() - data.test[0][i].int()).abs().max() <= 2
    mean, std = moments(data.train[0])
    assert torch.allclose(torch.tensor([mean, std]), torch.tensor([data.mean, data.std]), atol=3e-3)
    x, y = next(data.batches('train', 64, channels_last=True))
    assert x.shape == (64, 3, 64, 64) and y.unique().numel() > 30


# --- the cache --------------------------------------------------------------------------------------------------

def numbers_cache(folder, mark='a', n=5, calls=None):
    def make():
        if calls is not None: calls.append(1)
        return (torch.full((3, 8, 8), i, dtype=torch.uint8) for i in range(n))
    return cached(folder / 'c', mark, (n, 3, 8, 8), make)


@pytest.mark.parametrize('harm', [
    lambda p: (p / 'c.u8').unlink(), lambda p: (p / 'c.json').unlink(), lambda p: (p / 'c.u8').write_bytes(b''),
    lambda p: (p / 'c.u8').write_bytes((p / 'c.u8').read_bytes()[:-1]), lambda p: (p / 'c.u8').write_bytes((p / 'c.u8').read_bytes() + b'x'),
    lambda p: (p / 'c.u8').write_bytes(b'junk' * 240), lambda p: (p / 'c.json').write_text('{"finger'), lambda p: (p / 'c.json').write_text('[]'),
    lambda p: (p / 'c.json').write_text('[' * 100_000), lambda p: (p / 'c.json').write_bytes(b'\xff\xfe'),
    lambda p: (p / 'c.u8').write_bytes((p / 'c.u8').read_bytes()[:-300] + bytes(300))])
def test_a_harmed_cache_is_made_anew(tmp_path, harm):
    calls = []
    good = numbers_cache(tmp_path, calls=calls).clone(); harm(tmp_path)
    assert numbers_cache(tmp_path, calls=calls).equal(good) and len(calls) == 2
    assert numbers_cache(tmp_path, calls=calls).equal(good) and len(calls) == 2
    numbers_cache(tmp_path, mark='b', calls=calls); assert len(calls) == 3
    numbers_cache(tmp_path, mark='b', n=4, calls=calls); assert len(calls) == 4


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(['c.u8', 'c.json']), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_a_cache_is_noticed(tmp_path_factory, name, at, flip):
    folder = tmp_path_factory.getbasetemp() / 'changed'; folder.mkdir(exist_ok=True)
    calls, good = [], numbers_cache(folder).clone()
    raw = bytearray((folder / name).read_bytes()); raw[at % len(raw)] ^= flip; (folder / name).write_bytes(raw)
    assert numbers_cache(folder, calls=calls).equal(good)
    assert len(calls) == 1 or name == 'c.json'                          # white space may differ in a note


def test_it_is_mapped_and_private(tmp_path):
    x = numbers_cache(tmp_path); before = (tmp_path / 'c.u8').read_bytes()
    x.fill_(9)
    assert (tmp_path / 'c.u8').read_bytes() == before and numbers_cache(tmp_path)[1].unique().tolist() == [1]


def building(folder, said, room=None):
    "In a process of its own, on a disk with so much room: what is decoded is said, and how it ended."
    if room: import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    def make():
        for i in range(100): said.send(i); time.sleep(.01); yield torch.full((3, 64, 64), i, dtype=torch.uint8)
    try: said.send(f"sum {cached(folder / 'c', 'a', (100, 3, 64, 64), make).sum(dtype=torch.int64).item()}")
    except OSError as e: said.send(str(e))


def begun(folder, **how):
    here, there = forked.Pipe()
    p = forked.Process(target=building, args=(folder, there), kwargs=how); p.start(); there.close()
    return p, here


def heard(pipe):
    "All that is said, to the end of the process."
    said = []
    with suppress(EOFError, ConnectionResetError):
        while True: said.append(pipe.recv())
    return said


def test_a_writer_killed_half_way_leaves_nothing_that_counts(tmp_path):
    p, said = begun(tmp_path)
    while said.recv() != 60: pass
    p.kill(); p.join()
    assert sorted(f.suffix for f in tmp_path.iterdir()) == ['.lock', '.part']
    x = cached(tmp_path / 'c', 'a', (2, 1), lambda: iter(torch.tensor([[3], [4]], dtype=torch.uint8)))
    assert x.tolist() == [[3], [4]] and not list(tmp_path.glob('*.part'))      # what was left behind is gone


def test_of_three_processes_at_once_one_decodes_and_all_get_the_whole(tmp_path):
    ends = [heard(said) for _, said in [begun(tmp_path) for _ in range(3)]]
    assert [e[-1] for e in ends] == [f'sum {sum(range(100)) * 3 * 64 * 64}'] * 3
    assert sorted(len(e) for e in ends) == [1, 1, 101]
    assert sorted(f.name for f in tmp_path.iterdir()) == ['c.json', 'c.u8']


def test_a_full_disk_is_reported_and_cleaned_up(tmp_path):
    *_, said = heard(begun(tmp_path, room=300_000)[1])
    assert 'cannot be written' in said and 'cache=' in said and '1 MB' in said
    assert not list(tmp_path.iterdir())


def test_a_read_only_data_folder_is_left_alone(tmp_path, monkeypatch):
    place, home = tmp_path / 'there', tmp_path / 'home'
    place.mkdir(); as_zip(place / 'tiny-imagenet-200.zip', tiny_files())
    monkeypatch.setenv('HOME', str(home)); before = sorted(place.iterdir())
    place.chmod(0o555)
    try:
        check_tiny(tiny_imagenet(place))
        assert sorted(place.iterdir()) == before and (home / '.cache' / 'ggr_nb' / 'tiny-imagenet-200.zip.u8').exists()
        monkeypatch.setenv('GGR_CACHE', str(tmp_path / 'named'))
        check_tiny(tiny_imagenet(place)); assert (tmp_path / 'named' / 'tiny-imagenet-200.zip.u8').exists()
    finally: place.chmod(0o755)


def test_an_unwritable_cache_folder_is_an_error_not_another_folder(tmp_path):
    as_zip(tmp_path / 'tiny-imagenet-200.zip', tiny_files()); (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='no cache can be written in') as e: tiny_imagenet(tmp_path, cache=tmp_path / 'file' / 'below')
    assert 'GGR_CACHE' in str(e.value) and not list(tmp_path.glob('*.u8'))


# --- the module -------------------------------------------------------------------------------------------------

def test_by_name(): assert {digits, mnist, cifar10, cifar100, tiny_imagenet} <= set(DATASETS.values()) and DATASETS['digits'] is digits


def test_the_notebook_runs_without_the_large_data(tmp_path, root):
    "With no data folder anywhere, the notebook's cells fall back to digits."
    env = os.environ | dict(GGR_DATA=str(tmp_path / 'none'), HOME=str(tmp_path), PYTHONPATH=str(root))
    code = '''
        import json, os, re, sys
        cells = [''.join(c['source']) for c in json.load(open(sys.argv[1]))['cells'] if c['cell_type'] == 'code']
        os.chdir(sys.argv[2]); ns = {}
        for c in cells:
            if 'nbdev' in c or 'benchmarks/data.json' in c or "bench['" in c or 'bar_plot(' in c: continue
            exec(compile(c, 'cell', 'exec'), ns)
        print(ns['images'])
    '''
    out = subprocess.run([sys.executable, '-c', textwrap.dedent(code), str(root / 'nbs' / 'train' / 'data.ipynb'), str(tmp_path)], capture_output=True, text=True, env=env)
    assert out.returncode == 0, out.stderr[-2000:]
    assert 'digits' in out.stdout.splitlines()[-1] and 'CIFAR100: no folder' in out.stdout
