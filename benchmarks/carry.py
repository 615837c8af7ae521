"""Data sets in parts that are small enough to travel with a checkout, and back bit for bit (used by benchmarks/gpu.py).

CIFAR-100 becomes lossless WebP mosaics and the rest of each pickle; any other file is cut. Each part has the whole list.
Masks travel as text in a file of results.
"""
import base64, io, json, lzma, shutil, zlib
from hashlib import md5
from pathlib import Path

import numpy as np, torch

from ggr_nb.train import runs

SIDE, PART = 16, 28 << 20                        # 16 × 16 images a mosaic; with a part the checkout stays below 64 MiB


def pixels_of(file):
    "The images of one of CIFAR-100's files as [N, 3, 32, 32], and where its pixels begin."
    import pickle
    whole = file.read_bytes(); data = pickle.loads(whole, encoding='latin1')['data']
    begin = whole.find(data.tobytes())
    if begin < 0: raise ValueError(f'{file}: the pixels do not lie there in one piece')
    return whole, begin, data.reshape(len(data), 3, 32, 32)


def mosaic(images):
    "Up to 256 images as one picture [512, 512, 3]; missing ones are black."
    full = np.zeros((SIDE * SIDE, 3, 32, 32), np.uint8); full[:len(images)] = images
    return full.reshape(SIDE, SIDE, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(SIDE * 32, SIDE * 32, 3)


def images_of(picture):
    "The way back: [256, 3, 32, 32]."
    return picture.reshape(SIDE, 32, SIDE, 32, 3).transpose(0, 2, 4, 1, 3).reshape(SIDE * SIDE, 3, 32, 32)


def pieces_of(source, limit, method):
    "(file, name, bytes, how to undo it) of everything that is to travel."
    if source.is_file():
        body = source.read_bytes()
        for n, at in enumerate(range(0, len(body), limit)): yield source, f'piece{n:03}', body[at:at + limit], dict(kind='bytes')
        return
    from PIL import Image
    source /= 'cifar-100-python'
    yield source/'meta', 'meta.xz', lzma.compress((source/'meta').read_bytes()), dict(kind='rest', at=0)
    for name in ('train', 'test'):
        whole, begin, images = pixels_of(source/name)
        yield source/name, f'{name}.xz', lzma.compress(whole[:begin] + whole[begin + images.nbytes:]), dict(kind='rest', at=begin)
        for n in range(0, len(images), SIDE * SIDE):
            some, buffer = images[n:n + SIDE * SIDE], io.BytesIO()
            Image.fromarray(mosaic(some)).save(buffer, 'WEBP', lossless=True, quality=100, method=method)
            yield source/name, f'{name}{n // (SIDE * SIDE):03}.webp', buffer.getvalue(), dict(kind='images', count=len(some))


def pack(source, target, limit=PART, method=4):
    "A file, or the folder that holds cifar-100-python, as folders part0, part1, … of pieces and a list with sums."
    source, target, files, entries, size, part = Path(source), Path(target), {}, [], 0, 0
    top = source.parent if source.is_file() else source
    for old in target.glob('part*'): shutil.rmtree(old)
    for file, name, body, undo in pieces_of(source, limit, method):
        of = file.relative_to(top).as_posix()
        if of not in files: files[of] = dict(md5=md5(file.read_bytes()).hexdigest())
        if size and size + len(body) > limit: size, part = 0, part + 1
        size += len(body); folder = target/f'part{part}'; folder.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(body); entries.append(dict(name=name, of=of, part=part, crc=zlib.crc32(body), **undo))
    for p in range(part + 1): (target/f'part{p}'/'list.json').write_text(json.dumps(dict(files=files, entries=entries)))
    return part + 1


def unpack(folders, target):
    "The original files below `target`, bit for bit; a damaged or missing part is named. Returns their paths."
    folders = [q for p in map(Path, folders) for q in ([p] if (p/'list.json').exists() else sorted(p.glob('part*')))]
    if not folders: raise FileNotFoundError('no list.json in the folders given: name the folders part0, part1, … or the one that holds them')
    found, target = json.loads((folders[0]/'list.json').read_text()), Path(target)
    where, rest, middle = {f.name: f for d in folders for f in d.iterdir()}, {}, {}
    for e in found['entries']:
        if e['name'] not in where: raise FileNotFoundError(f'{e["name"]} is missing: it belongs to part{e["part"]}')
        body = where[e['name']].read_bytes()
        if zlib.crc32(body) != e['crc']: raise ValueError(f'{where[e["name"]]} is damaged: bring part{e["part"]} again')
        if e['kind'] == 'rest': rest[e['of']] = lzma.decompress(body), e['at']; continue
        if e['kind'] == 'images':
            from PIL import Image
            body = images_of(np.asarray(Image.open(io.BytesIO(body)).convert('RGB')))[:e['count']].tobytes()
        middle.setdefault(e['of'], []).append(body)
    for name, want in found['files'].items():
        other, at = rest.get(name, (b'', 0)); body = other[:at] + b''.join(middle.get(name, [])) + other[at:]
        if md5(body).hexdigest() != want['md5']: raise ValueError(f'{name} does not come back as it was: its MD5 sum differs')
        (target/name).parent.mkdir(parents=True, exist_ok=True); (target/name).write_bytes(body)
    return [target/name for name in found['files']]


def masks_to_text(masks):
    "{layer: [shape, text]}: a bit a place, compressed."
    return {n: [shape, base64.b85encode(lzma.compress(bits.numpy().tobytes())).decode()] for n, (shape, bits) in runs.pack(masks).items()}


def masks_from_text(found):
    "The masks again."
    bits = lambda text: torch.frombuffer(bytearray(lzma.decompress(base64.b85decode(text))), dtype=torch.uint8)
    return runs.unpack({n: (shape, bits(text)) for n, (shape, text) in found.items()})
