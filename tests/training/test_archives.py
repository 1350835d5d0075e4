import gzip
import io
import itertools
import stat
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from supernet import InputError
from training import DataSettings, archives, load_split, prepare, sources
from training import data as data_module

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = [".zip", *TARS]
COMPRESSED = [".tar.gz", ".tar.bz2", ".tar.xz"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "cache"))


def picture(value, side=6):
    content = io.BytesIO()
    Image.new("RGB", (side, side), (value % 256, value // 256, 20)).save(content, "png")
    return content.getvalue()


def pictures(count=12, classes=("ant", "bee"), before=""):
    """Path: bytes; each picture has a colour of its own, and some lie in folders below their class."""
    names = [f"{before}{name}/{'more/' * (number % 3 == 0)}{number}.png" for name in classes for number in range(count)]
    return {name: picture(number + 100 * len(before)) for number, name in enumerate(names)}


def pack(path, members):
    """Write an archive; a member is bytes, None for a folder, or a TarInfo or ZipInfo with its bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                if content is None:
                    archive.mkdir(name)
                else:
                    archive.writestr(name, content)
    else:
        mode = next(TARS[suffix] for suffix in TARS if path.name.endswith(suffix))
        with tarfile.open(path, mode) as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
                info.size = len(content or b"")
                archive.addfile(info, io.BytesIO(content or b""))
    return f"archive:{path}"


def blocks(*infos):
    """A plain tar of headers alone, as they are."""
    return b"".join(info.tobuf(tarfile.GNU_FORMAT) for info in infos) + bytes(1024)


def files_below(folder):
    return {(path, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def refuse(source, said, tmp_path):
    """The source is refused, and no file has come into being anywhere around it."""
    before = files_below(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        prepare(DataSettings(source=source), 6)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == before


def splits(source, **settings):
    info = prepare(DataSettings(source=source, **settings), 6)
    return info, [load_split(info, name) for name in data_module.SPLITS]


def write_folder(folder, members):
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return f"folder:{folder}"


def shuffled(members):
    names = list(members)
    np.random.default_rng(3).shuffle(names)
    return {name: members[name] for name in names}


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_gives_what_its_folder_gives(suffix, divided, tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "_CHUNK", 5)
    members = pictures()
    if divided:
        members = pictures(before="train/") | pictures(4, before="val/") | pictures(3, before="test/")
    expected, expected_splits = splits(write_folder(tmp_path / "folder", members))
    found, found_splits = splits(pack(tmp_path / f"a{suffix}", shuffled(members)))
    assert (found.classes, found.sizes, found.channels) == (expected.classes, expected.sizes, expected.channels)
    assert found.normalisation == expected.normalisation
    for one, other in zip(found_splits, expected_splits, strict=True):
        assert len({image.numpy().tobytes() for image in one.images}) == len(one)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("before", ["./", "pics/", "./pics/", "pics/train/", "train/"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_one_folder_around_all_is_looked_through(suffix, before, tmp_path):
    members = {
        "./": None,
        **pictures(before=before),
        "README.txt": b"text",
        ".git/ant/1.png": b"",
        "__MACOSX/pics/ant/._1.png": b"no picture",
        f"{before}.ipynb_checkpoints/1.png": b"no picture",
        f"{before}__MACOSX/1.png": b"no picture",
        f"{before}ant/._1.png": b"no picture",
        f"{before}ant/notes.txt": b"no picture",
    }
    info = prepare(DataSettings(source=pack(tmp_path / f"a{suffix}", members)), 6)
    assert info.classes == ("ant", "bee")
    assert sum(info.sizes.values()) == 24


def test_two_folders_around_all_are_classes(tmp_path):
    source = pack(tmp_path / "a.zip", pictures(before="one/") | pictures(before="two/"))
    assert prepare(DataSettings(source=source), 6).classes == ("one", "two")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_split_folder_alone_is_not_looked_through(suffix, tmp_path):
    source = pack(tmp_path / f"a{suffix}", pictures(before="test/"))
    refuse(source, "1 class folders; expected at least 2", tmp_path)


def test_backslashes_of_windows_separate_folders(tmp_path):
    members = {name.replace("/", "\\"): content for name, content in pictures(before="pics/").items()}
    assert prepare(DataSettings(source=pack(tmp_path / "a.zip", members)), 6).classes == ("ant", "bee")


def test_an_upper_case_name_and_long_member_names(tmp_path):
    members = {name.replace("/", f"/{'é' * 120}/"): content for name, content in pictures().items()}
    for archive_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{archive_format}.TGZ"
        with tarfile.open(path, "w:gz", format=archive_format) as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        assert sum(prepare(DataSettings(source=f"archive:{path}"), 6).sizes.values()) == 24


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_archives_that_are_no_class_folders_are_refused(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    refuse(pack(path, {}), "0 class folders; expected at least 2", tmp_path)
    refuse(pack(path, {"1.png": picture(1)}), "0 class folders", tmp_path)
    refuse(pack(path, {**pictures(), "cow/": None}), rf"a{suffix}/cow: no image; expected files such as", tmp_path)
    wasp = pictures(before="train/") | {"test/wasp/1.png": picture(1)}
    refuse(pack(path, wasp), r"a.*/test: class 'wasp' is not among the training classes", tmp_path)
    broken = {**pictures(), "bee/3.png": b"hello"}
    refuse(pack(path, broken), rf"a{suffix}/bee/3\.png: not a readable image", tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_no_archives_are_refused(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    refuse(f"archive:{path}", "no such file; expected an archive of one folder of images for each class", tmp_path)
    for content in (b"", b"hello", b"PK", bytes(700), b"x" * 5000):
        path.write_bytes(content)
        refuse(f"archive:{path}", rf"a{suffix}: (cannot be unfolded|broken after 0|0 class)", tmp_path)
    path.unlink()
    path.mkdir()
    refuse(f"archive:{path}", "no such file", tmp_path)


@pytest.mark.parametrize("name", ["a.rar", "a", "a.gz", "zip", ""])
def test_other_kinds_are_refused(name, tmp_path):
    said = r"ends in \.zip, \.tar, \.tar\.gz, \.tgz, \.tar\.bz2, \.tar\.xz"
    refuse(f"archive:{tmp_path}/{name}", f"not an archive by its name; expected one that {said}", tmp_path)


def test_a_changed_archive_is_read_again(tmp_path):
    path = tmp_path / "a.zip"
    first = prepare(DataSettings(source=pack(path, pictures())), 6)
    assert prepare(DataSettings(source=f"archive:{path}"), 6).folder == first.folder
    assert sum(prepare(DataSettings(source=pack(path, pictures(13))), 6).sizes.values()) == 26


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_a_closed_source_reads_no_more(suffix, tmp_path):
    pack(tmp_path / f"a{suffix}", pictures())
    source = sources._open_archive(tmp_path / f"a{suffix}")
    assert len(source.parts["train"].read([3, 0])) == 2
    source.close()
    with pytest.raises(InputError, match="cannot be unfolded"):
        source.parts["train"].read([0])


def test_each_split_of_a_compressed_tar_is_one_sweep(tmp_path, monkeypatch):
    steps = []
    seek = archives._TarStream.seek

    def watched(stream, position, whence=0):
        steps.append(position - stream.tell())
        return seek(stream, position, whence)

    monkeypatch.setattr(archives._TarStream, "seek", watched)
    monkeypatch.setattr(data_module, "_CHUNK", 7)
    prepare(DataSettings(source=pack(tmp_path / "a.tar.gz", shuffled(pictures(40, tuple("abcde")))), channels=None), 6)
    assert len(steps) > 200
    assert sum(step < 0 for step in steps) == 4  # after the list: channels and three splits


@pytest.mark.parametrize(
    "name",
    ["../canary.png", "ant/../../canary.png", "/canary.png", "C:/canary.png", "c:canary.png", "\\canary.png",
     "ant\\..\\..\\canary.png", "..", "//server/canary.png", "{tmp_path}/canary.png"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_lead_elsewhere_are_refused(suffix, name, tmp_path):
    (tmp_path / "inner").mkdir()
    source = pack(tmp_path / "inner" / f"a{suffix}", {**pictures(), name.format(tmp_path=tmp_path): picture(1)})
    refuse(source, "member '.*' leads elsewhere; expected a path below the top; refused", tmp_path)
    assert not list(tmp_path.rglob("canary*"))


def test_a_zero_byte_in_a_name_is_refused(tmp_path):
    source = pack(tmp_path / "a.zip", {**pictures(), "bee/X.png": picture(1)})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"bee/X.png", b"bee/\0.png"))
    refuse(source, r"member 'bee/\\x00.png' leads elsewhere", tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("bee/1.png")
        info.pax_headers = {"path": "bee/\0.png"}
        archive.addfile(info)
    refuse(f"archive:{tmp_path}/a.tar", r"member 'bee/\\x00.png' leads elsewhere", tmp_path)


@pytest.mark.parametrize(("first", "second"), [("ant/1.png", "ant/1.png"), ("ant/1.png", "./ant//1.png")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.xz"])
def test_a_name_that_is_there_twice_is_refused(suffix, first, second, tmp_path):
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(first, picture(1))
            archive.writestr(second, picture(2))
    else:
        with tarfile.open(path, TARS[suffix]) as archive:
            archive.addfile(tarfile.TarInfo(first))
            archive.addfile(tarfile.TarInfo(second))
    refuse(f"archive:{path}", "member 'ant/1.png' is there twice; expected each name once", tmp_path)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE,
     b"V", b"M"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_links_and_devices_in_a_tar_are_refused(suffix, kind, tmp_path):
    canary = tmp_path / "canary.png"
    canary.write_bytes(picture(7))
    info = tarfile.TarInfo("bee/odd.png")
    info.type, info.linkname = kind, str(canary)
    content = blocks(tarfile.TarInfo("ant"), info)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    refuse(f"archive:{tmp_path}/a{suffix}", "member 'bee/odd.png' is a link, a device or the like; expected", tmp_path)
    assert canary.read_bytes() == picture(7)


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1099511627776"},
        {"GNU.sparse.size": "1099511627776", "GNU.sparse.numblocks": "1"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1099511627776"},
    ],
)
def test_sparse_files_are_refused(headers, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("bee/1.png")
        info.pax_headers, info.size = headers, 512
        archive.addfile(info, io.BytesIO(b"1\n0\n512\n".ljust(512, b"\0")))
    refuse(f"archive:{tmp_path}/a.tar", "member 'bee/1.png' is a link, a device or the like", tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(kind, tmp_path):
    info = zipfile.ZipInfo("bee/odd.png")
    info.external_attr = (kind | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, str(tmp_path / "canary.png"))
    refuse(f"archive:{tmp_path}/a.zip", "member 'bee/odd.png' is a link, a device or the like", tmp_path)


def patch_directory(path, offset, layout, *values):
    """Overwrite fields of the first entry of a zip's directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, content.index(b"PK\x01\x02") + offset, *values)
    path.write_bytes(content)


def test_an_encrypted_zip_is_refused(tmp_path):
    source = pack(tmp_path / "a.zip", pictures())
    patch_directory(tmp_path / "a.zip", 8, "<H", 1)
    refuse(source, "'ant/more/0.png' is encrypted; expected an archive without a password", tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_that_unfold_without_bounds_are_refused(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("ant/1.png", bytes(1000))
    refuse(f"archive:{tmp_path}/a.zip", rf"compressed by method {method}; expected deflate or none", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"), [(-1, "Bad CRC"), (-60, "Bad CRC"), (1, r"79 bytes; expected the announced 80"), (2**20, "79")]
)
def test_a_zip_that_lies_about_a_size_is_refused(change, said, tmp_path):
    members = pictures()
    source = pack(tmp_path / "a.zip", members)
    size = len(members["ant/more/0.png"])
    patch_directory(tmp_path / "a.zip", 24, "<I", size + change)
    said = said.replace("79", str(size)).replace("80", str(size + 1))
    refuse(source, rf"a\.zip/ant/more/0\.png: .*{said}", tmp_path)


class Watched(gzip.GzipFile):
    """Remembers how far it was unfolded."""

    furthest = 0

    def close(self):
        if self.fileobj is not None:
            Watched.furthest = self.tell()
        super().close()


def test_a_bomb_is_refused_before_it_unfolds(tmp_path, monkeypatch):
    zeros = bytes(80 * 2**20)
    said = "member 'bee/1.png' unfolds more than a thousandfold; refused"
    zipped = pack(tmp_path / "a.zip", {"ant/1.png": picture(1), "bee/1.png": zeros})
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *arguments: pytest.fail("unfolded"))
    refuse(zipped, said, tmp_path)
    tarred = pack(tmp_path / "a.tar.gz", {"ant/1.png": picture(1), "bee/1.png": zeros})
    monkeypatch.setitem(archives._TARS, ".tar.gz", Watched)
    refuse(tarred, said, tmp_path)
    assert 0 < Watched.furthest < 5000


@pytest.mark.parametrize("suffix", [".zip", *COMPRESSED])
def test_many_small_bombs_are_refused(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_ALL_FREE_OF_RATIO", 2**22)
    monkeypatch.setattr(archives, "_RATIO", 300)
    source = pack(tmp_path / f"a{suffix}", {f"bee/{number}.png": bytes(2**19) for number in range(16)})
    refuse(source, r"unfolds to 4718592 bytes or more, reached at member 'bee/8.png'; expected at most", tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_members_pictures_and_all_bytes_are_limited(suffix, tmp_path, monkeypatch):
    source = pack(tmp_path / f"a{suffix}", pictures(3))
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_MEMBERS", 5)
        refuse(source, "more than 5 members; expected an archive of pictures; refused", tmp_path)
        patch.setattr(archives, "_MEMBERS", 6)
        archives.open_archive(tmp_path / f"a{suffix}").close()
        patch.setattr(archives, "_PICTURE_BYTES", 50)
        said = r"member 'ant/more/0.png' unfolds to \d+ bytes; expected a picture of at most 50; refused"
        refuse(source, said, tmp_path)
    monkeypatch.setattr(archives, "_ALL_BYTES", 300)
    refuse(source, r"unfolds to \d+ bytes or more, reached at member 'bee/.*'; expected at most 300", tmp_path)


def test_a_large_file_that_is_no_picture_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_PICTURE_BYTES", 1000)
    source = pack(tmp_path / "a.tar.gz", {**pictures(), "labels.json": bytes(5000)})
    assert prepare(DataSettings(source=source), 6).sizes["train"] > 0


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [2**26, -512])
def test_a_header_bomb_is_refused_before_it_unfolds(kind, size, tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, size
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(2**26) if size > 0 else info.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(content + blocks(tarfile.TarInfo("ant"))))
    del content
    tracemalloc.start()
    try:
        refuse(f"archive:{path}", rf"{size} bytes where at most 1048064 are read", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_negative_size_does_not_send_the_list_in_circles(tmp_path):
    info = tarfile.TarInfo("bee/1.png")
    info.size = -1024
    (tmp_path / "a.tar").write_bytes(blocks(tarfile.TarInfo("ant"), info))
    refuse(f"archive:{tmp_path}/a.tar", "member 'bee/1.png' announces -1024 bytes; refused", tmp_path)


def test_headers_of_headers_without_end_are_refused(tmp_path):
    info = tarfile.TarInfo("long")
    info.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(blocks(*[info] * 5000))
    refuse(f"archive:{tmp_path}/a.tar", "cannot be unfolded", tmp_path)


def test_zeros_without_end_after_the_end_mark_are_refused(tmp_path):
    pack(tmp_path / "b.tar", pictures())
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write((tmp_path / "b.tar").read_bytes())
        for _ in range(70):
            file.write(bytes(2**20))
    refuse(f"archive:{tmp_path}/a.tar.gz", "cannot be unfolded", tmp_path)


def test_a_tar_that_is_cut_between_members_is_refused(tmp_path):
    source = pack(tmp_path / "a.tar", pictures())
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 1024 * 20])
    refuse(source, "broken after 20 members; expected a whole archive with an end mark", tmp_path)
    damaged = bytearray(whole)
    damaged[1024 * 20 + 3] ^= 1
    (tmp_path / "a.tar").write_bytes(damaged)
    refuse(source, "broken after 20 members", tmp_path)


def refit(content):
    """Make the checksums of a tar's headers right again, so that damage reaches what lies behind them."""
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])


@pytest.mark.parametrize("suffix", [".zip", ".tar", *COMPRESSED])
def test_a_damaged_archive_is_read_rightly_or_refused(suffix, tmp_path):
    random = np.random.default_rng(7)
    path = tmp_path / f"a{suffix}"
    members = {name.replace("bee", "bee" * 50): content for name, content in pictures(3).items()}
    pack(path, members)
    whole = path.read_bytes()

    def read():
        source = sources._open_archive(path)
        try:
            part = source.parts["train"]
            found = part.read(range(len(part.labels)))
            return [(int(label), image.tobytes()) for label, image in zip(part.labels, found, strict=True)]
        finally:
            source.close()

    expected = read()
    before = files_below(tmp_path)
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        if number % 2:
            damaged = damaged[: random.integers(len(whole))]
        else:
            damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        if suffix == ".tar" and number % 4 == 0:
            damaged[512 * random.integers(len(whole) // 512) + random.integers(512)] = random.integers(256)
            refit(damaged)
        path.write_bytes(damaged)
        try:
            found = read()
        except InputError:
            refused += 1
            continue
        if suffix == ".zip":  # names in its directory have no checksum: a picture may cease to be called one
            assert set(found) <= set(expected)
        elif suffix != ".tar":  # neither has anything but the headers of a plain tar
            assert found == expected
    assert refused > {".zip": 200, ".tar": 100}.get(suffix, 270)
    assert {name for name, _ in files_below(tmp_path)} == {name for name, _ in before}


def test_an_unknown_source_names_archives():
    with pytest.raises(InputError, match="Did you mean 'archive:PATH'"):
        prepare(DataSettings(source="archive:"), 6)


def test_names_of_members_are_sorted_as_files_are(tmp_path):
    names = [f"ant/{name}.png" for name in ("a", "a-b", "a/b", "a b", "A", "a.b", "é", "10", "9")]
    members = {name: picture(number) for number, name in enumerate(names)} | {"bee/1.png": picture(99)}
    write_folder(tmp_path / "folder", members)
    pack(tmp_path / "a.tar", shuffled(members))
    both = [sources._open_folder(tmp_path / "folder"), sources._open_archive(tmp_path / "a.tar")]
    first, second = (source.parts["train"].read(range(10)) for source in both)
    assert all(np.array_equal(one, other) for one, other in itertools.zip_longest(first, second))
    both[1].close()
