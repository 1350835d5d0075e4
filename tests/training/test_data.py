import json
import math
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from supernet import InputError
from supernet.settings import UnavailableError
from training import DataSettings, load_split, open_prepared, prepare, sources
from training import data as data_module


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "cache"))


def arrays(count=60, side=6, channels=3, classes=3, test=20):
    random = np.random.default_rng(0)
    shape = (side, side, channels) if channels else (side, side)
    return {
        "train_images": random.integers(0, 256, (count, *shape), dtype=np.uint8),
        "train_labels": np.arange(count) % classes,
        "test_images": random.integers(0, 256, (test, *shape), dtype=np.uint8),
        "test_labels": np.arange(test) % classes,
    }


def save(path, content):
    np.savez(path, **content)
    return f"npz:{path}"


def rows(split):
    """Pictures as a set of bytes."""
    return {image.numpy().tobytes() for image in split.images}


def test_digits():
    info = prepare(DataSettings(), 8)
    assert (info.side, info.channels, info.classes) == (8, 1, tuple("0123456789"))
    assert sum(info.sizes.values()) == 1797
    splits = {name: load_split(info, name) for name in data_module.SPLITS}
    for name, split in splits.items():
        assert split.images.shape == (info.sizes[name], 8, 8, 1)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        # Every class is there in its proportion, to within one picture and rounding.
        share = torch.bincount(split.labels, minlength=10) / len(split)
        assert (share - 0.1).abs().max() < 0.02
    assert info.sizes["test"] == round(0.2 * 1797)
    assert info.sizes["validation"] == round(0.1 * (1797 - info.sizes["test"]))
    train = splits["train"].images.double() / 255
    assert info.normalisation.mean == pytest.approx([float(train.mean())])
    assert info.normalisation.deviation == pytest.approx([float(train.std(correction=0))])
    assert train.max() == 1


def test_splits_are_disjoint_and_whole(tmp_path):
    content = arrays(count=90)
    del content["test_images"], content["test_labels"]
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", content), validation_fraction=0.3), 6)
    sets = [rows(load_split(info, name)) for name in data_module.SPLITS]
    assert [len(found) for found in sets] == [info.sizes[name] for name in data_module.SPLITS] == [50, 22, 18]
    assert set.union(*sets) == {image.tobytes() for image in content["train_images"]}
    labels = [torch.bincount(load_split(info, name).labels).tolist() for name in data_module.SPLITS]
    assert all(max(counts) - min(counts) <= 1 for counts in labels)


def test_pictures_keep_their_labels(tmp_path):
    content = arrays()
    known = {
        image.tobytes(): label for image, label in zip(content["train_images"], content["train_labels"], strict=True)
    }
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", content)), 6)
    for name in ("train", "validation"):
        split = load_split(info, name)
        assert [known[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()
    test = load_split(info, "test")
    np.testing.assert_array_equal(test.images, content["test_images"])
    np.testing.assert_array_equal(test.labels, content["test_labels"])


def test_the_split_is_a_function_of_its_seed(tmp_path):
    source = save(tmp_path / "a.npz", arrays())
    first, other = (load_split(prepare(DataSettings(source=source, split_seed=seed), 6), "train") for seed in (0, 1))
    assert rows(first) != rows(other)
    for entry in (tmp_path / "cache" / "prepared").iterdir():
        for file in entry.iterdir():
            file.unlink()
        entry.rmdir()
    again = load_split(prepare(DataSettings(source=source), 6), "train")
    assert torch.equal(first.images, again.images)


def test_a_limit_keeps_so_many_of_each_split_by_class():
    settings = DataSettings(train_images=100, validation_images=50, test_images=20)
    info = prepare(settings, 8)
    assert info.sizes == {"train": 100, "validation": 50, "test": 20}
    assert torch.bincount(load_split(info, "train").labels).tolist() == pytest.approx([10] * 10, abs=1)
    assert rows(load_split(info, "train")) <= rows(load_split(prepare(DataSettings(), 8), "train"))


def test_fewer_training_images_leave_everything_else_as_it_is():
    settings = DataSettings(train_images=100, validation_images=50, test_images=20)
    full, more, fewer = (prepare(settings, 8, train_images=count) for count in (None, 60, 13))
    assert fewer.sizes == {"train": 13, "validation": 50, "test": 20}
    assert set(load_split(fewer, "train").labels.tolist()) == set(range(10))  # of every class at least one
    assert rows(load_split(fewer, "train")) < rows(load_split(more, "train")) < rows(load_split(full, "train"))
    for name in ("validation", "test"):
        assert load_split(fewer, name).images.equal(load_split(full, name).images)
    assert prepare(settings, 8, train_images=100).sizes == full.sizes


def test_a_rare_class_keeps_its_picture(tmp_path):
    content = arrays(count=200, classes=2)
    content["train_labels"] = (np.arange(200) % 50 == 0).astype(int)
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", content)), 6, train_images=5)
    assert torch.bincount(load_split(info, "train").labels).tolist() == [4, 1]


def test_a_memory_map_gives_the_same_pictures_and_leaves_the_file_alone():
    loaded, mapped = (prepare(DataSettings(memory_megabytes=size), 8) for size in (4096, 0))
    assert mapped.folder == loaded.folder
    path = mapped.folder / "train_images.npy"
    before = path.read_bytes()
    first, second = load_split(loaded, "train"), load_split(mapped, "train")
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    second.images[0] = 7
    assert path.read_bytes() == before


def test_a_second_prepare_decodes_nothing(tmp_path, monkeypatch):
    source = save(tmp_path / "a.npz", arrays())
    first = prepare(DataSettings(source=source), 6)
    monkeypatch.setattr(data_module, "_decode", lambda *arguments: pytest.fail("decoded again"))
    assert prepare(DataSettings(source=source), 6) == first
    assert open_prepared(first.folder, 4096) == first


def test_a_changed_file_is_decoded_again(tmp_path):
    path = tmp_path / "a.npz"
    first = prepare(DataSettings(source=save(path, arrays())), 6)
    content = arrays()
    content["train_images"][:] = 9
    save(path, content)
    os.utime(path, ns=(1, 1))
    second = prepare(DataSettings(source=f"npz:{path}"), 6)
    assert second.folder != first.folder
    assert (load_split(second, "train").images == 9).all()
    assert len(rows(load_split(first, "train"))) > 1


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("found", [0, 1, 3])
def test_channels_are_as_in_the_source_or_as_asked(found, channels, tmp_path):
    source = save(tmp_path / "a.npz", arrays(channels=found))
    info = prepare(DataSettings(source=source, channels=channels), 6)
    expected = channels or max(1, found)
    assert info.channels == expected
    assert load_split(info, "train").images.shape == (54, 6, 6, expected)
    assert len(info.normalisation.mean) == len(info.normalisation.deviation) == expected


def test_gray_pictures_in_colour_have_three_equal_channels(tmp_path):
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", arrays(channels=1)), channels=3), 6)
    images = load_split(info, "train").images
    assert torch.equal(images[..., 0], images[..., 1])
    assert torch.equal(images[..., 0], images[..., 2])


@pytest.mark.parametrize(("height", "width"), [(6, 12), (12, 6)])
def test_the_centre_of_a_picture_that_is_not_square_is_kept(height, width, tmp_path):
    content = arrays()
    picture = np.zeros((height, width, 3), np.uint8)
    middle = (slice(None), slice(3, 9)) if width > height else (slice(3, 9), slice(None))
    picture[middle] = 200
    content["train_images"] = np.repeat(picture[None], 60, axis=0)
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", content)), 6)
    assert (load_split(info, "train").images == 200).all()


def test_pictures_are_scaled_to_the_side(tmp_path):
    content = arrays(side=16)
    content["train_images"][:] = 50
    content["train_images"][:, 8:] = 150
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", content)), 8)
    image = load_split(info, "train").images[0, :, :, 0]
    assert (image[:3] == 50).all()
    assert (image[5:] == 150).all()


class Canary:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def without(*names):
    return lambda: {key: value for key, value in arrays().items() if key not in names}


def changed(**values):
    return lambda: {**arrays(), **values}


BAD_NPZ = {
    "no images": (without("train_images"), "array 'train_images' is missing; known: train_labels"),
    "no labels": (without("train_labels"), "array 'train_labels' is missing"),
    "no test labels": (without("test_labels"), "test_images is there, but not test_labels"),
    "nothing": (dict, "array 'train_images' is missing"),
    "floats": (changed(train_images=np.zeros((60, 6, 6, 3))), "train_images must be uint8 .*got float64"),
    "flat": (changed(train_images=np.zeros((60, 36), np.uint8)), r"must be uint8 .*got uint8 \(60, 36\)"),
    "two channels": (changed(train_images=np.zeros((60, 6, 6, 2), np.uint8)), "must be uint8"),
    "no pictures": (changed(train_images=np.zeros((0, 6, 6, 3), np.uint8)), "must be uint8"),
    "test in another type": (changed(test_images=np.zeros((20, 6, 6, 3), np.int32)), "test_images must be uint8"),
    "too few labels": (changed(train_labels=np.zeros(59, int)), "train_labels must be 60 whole numbers"),
    "label columns": (changed(train_labels=np.zeros((60, 1), int)), "train_labels must be 60 whole numbers"),
    "labels as fractions": (changed(train_labels=np.zeros(60)), "train_labels must be 60 whole numbers, got float64"),
    "negative label": (changed(train_labels=np.arange(60) - 1), "train_labels holds -1; expected labels from 0"),
    "enormous label": (
        changed(train_labels=np.arange(60) + 10**12),
        r"train_labels holds 1\d+; expected labels from 0",
    ),
    "label beyond classes": (changed(classes=np.array(["a", "b"])), "label 2 with 2 classes"),
    "one class": (changed(train_labels=np.zeros(60, int), test_labels=np.zeros(20, int)), "with 1 classes"),
    "class names as one text": (changed(classes=np.array("abc")), "classes must be a list of names"),
    "spans of time": (changed(train_labels=np.zeros(60, "m8[s]")), "train_labels must be 60 whole numbers"),
    "too many class names": (changed(classes=np.zeros(100_001, "U0")), "a list of names, at most 100000, got"),
    "class without pictures": (changed(classes=np.array(list("abcd"))), "1 of 4 classes have no training image"),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_bad_npz_is_refused(name, tmp_path):
    make, said = BAD_NPZ[name]
    with pytest.raises(InputError, match=said):
        prepare(DataSettings(source=save(tmp_path / "a.npz", make())), 6)
    prepared = tmp_path / "cache" / "prepared"
    assert not prepared.exists() or not list(prepared.iterdir())


@pytest.mark.parametrize("key", ["train_images", "train_labels", "classes"])
def test_pickled_objects_are_refused_and_never_run(key, tmp_path):
    objects = np.array([Canary(tmp_path / "canary")] * 60, dtype=object)
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **{**arrays(), key: objects})
    with pytest.raises(InputError, match=r"not a readable .npz of plain arrays"):
        prepare(DataSettings(source=f"npz:{path}"), 6)
    assert not (tmp_path / "canary").exists()


def test_a_bomb_is_refused_before_it_unfolds(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("train_images.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match=r"'train_images.npy' unfolds more than a thousandfold; refused"):
        prepare(DataSettings(source=f"npz:{path}"), 6)


def test_an_npz_of_too_many_arrays_is_refused(tmp_path):
    more = {f"extra_{number}": np.zeros(1) for number in range(60)}
    prepare(DataSettings(source=save(tmp_path / "a.npz", {**arrays(), **more})), 6)
    source = save(tmp_path / "b.npz", {**arrays(), **more, "one_more": np.zeros(1)})
    with pytest.raises(InputError, match=r"b\.npz: 65 arrays; expected at most 64; refused"):
        prepare(DataSettings(source=source), 6)


def test_an_npz_beyond_the_memory_is_refused_before_it_unfolds(tmp_path, monkeypatch):
    source = save(tmp_path / "a.npz", arrays())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        total = sum(member.file_size for member in archive.infolist())
    assert sources._memory_bytes() > 2**28
    monkeypatch.setattr(np, "load", lambda *arguments, **options: pytest.fail("unfolded"))
    monkeypatch.setattr(sources, "_memory_bytes", lambda: total - 1)
    said = rf"unfolds to {total} bytes; expected at most this machine's {total - 1}; refused"
    with pytest.raises(InputError, match=said):
        prepare(DataSettings(source=source), 6)
    monkeypatch.undo()
    sources._open_npz(tmp_path / "a.npz")


def test_an_npz_compressed_by_another_method_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("train_images.npy", bytes(1000))
    with pytest.raises(InputError, match=r"'train_images\.npy' is compressed by method 12; expected deflate or none"):
        prepare(DataSettings(source=f"npz:{tmp_path}/a.npz"), 6)


def test_a_climbing_name_in_an_npz_is_an_unknown_array_and_nothing_is_written(tmp_path):
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.npz"
    save(path, {**arrays(), "../canary": np.zeros(3)})
    prepare(DataSettings(source=f"npz:{path}"), 6)
    save(path, {"../train_images": np.zeros(3), "train_labels": np.zeros(3)})
    with pytest.raises(InputError, match=r"array 'train_images' is missing; known: \.\./train_images"):
        prepare(DataSettings(source=f"npz:{path}"), 6)
    assert {entry.name for entry in tmp_path.iterdir()} == {"inner", "cache"}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_read_rightly_or_refused(saver, tmp_path):
    random = np.random.default_rng(7)
    path = tmp_path / "a.npz"
    saver(path, **arrays(count=6, side=3))
    whole = path.read_bytes()
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        if number % 2:
            damaged = damaged[: random.integers(len(whole))]
        else:
            damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            sources._open_npz(path)
        except InputError:
            refused += 1
    assert refused > 200


def test_files_that_are_no_npz_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file; expected an .npz with train_images"):
        prepare(DataSettings(source=f"npz:{tmp_path}/absent.npz"), 6)
    path = tmp_path / "a.npz"
    for content in (b"", b"hello", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not a readable .npz"):
            prepare(DataSettings(source=f"npz:{path}"), 6)
    with pytest.raises(InputError, match=r"not a readable .npz"):
        prepare(DataSettings(source=f"npz:{tmp_path}"), 6)


def test_class_names_come_from_the_file(tmp_path):
    names = np.array(["cat", "dog", "fish"])
    info = prepare(DataSettings(source=save(tmp_path / "a.npz", {**arrays(), "classes": names})), 6)
    assert info.classes == ("cat", "dog", "fish")


def fill(folder, classes=("ant", "bee"), count=12, mode="RGB", size=(7, 6), suffix="png"):
    """Class folders of pictures; each picture has a brightness of its own."""
    for position, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            value = 20 * number + 100 * position % 256
            colour = {"RGB": (value % 256, 10, 20), "RGBA": (value % 256, 10, 20, 255), "L": value % 256}[mode]
            Image.new(mode, size, colour).save(folder / name / f"{number}.{suffix}")
    return f"folder:{folder}"


def test_class_folders(tmp_path):
    info = prepare(DataSettings(source=fill(tmp_path / "images")), 6)
    assert info.classes == ("ant", "bee")
    assert sum(info.sizes.values()) == 24
    assert info.channels == 3
    split = load_split(info, "train")
    assert (split.images[..., 1] == 10).all()
    assert len(rows(split)) > 5


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_split_folders_are_kept(validation, tmp_path):
    for name, count in (("train", 9), (validation, 4), ("test", 3)):
        fill(tmp_path / "images" / name, count=count)
    info = prepare(DataSettings(source=f"folder:{tmp_path / 'images'}"), 6)
    assert info.sizes == {"train": 18, "validation": 8, "test": 6}
    assert info.classes == ("ant", "bee")


def test_hidden_folders_are_no_classes(tmp_path):
    source = fill(tmp_path / "images")
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir()
    assert prepare(DataSettings(source=source), 6).classes == ("ant", "bee")


def test_a_test_folder_alone_is_kept_and_validation_is_held_out(tmp_path):
    for name, count in (("train", 20), ("test", 3)):
        fill(tmp_path / "images" / name, count=count)
    info = prepare(DataSettings(source=f"folder:{tmp_path / 'images'}"), 6)
    assert info.sizes == {"train": 36, "validation": 4, "test": 6}


def test_gray_folders_stay_gray_and_one_gray_picture_among_colours_does_not_count(tmp_path):
    assert prepare(DataSettings(source=fill(tmp_path / "gray", mode="L")), 6).channels == 1
    source = fill(tmp_path / "colour", mode="RGBA")
    for name in ("ant", "bee"):
        Image.new("L", (6, 6), 30).save(tmp_path / "colour" / name / "0.png")
    info = prepare(DataSettings(source=source), 6)
    assert info.channels == 3
    # A transparent picture keeps its colours; those of a gray one are equal.
    images = load_split(info, "train").images.reshape(-1, 36, 3)
    assert {tuple(pixel) for pixel in images[:, 0, 1:].tolist()} <= {(10, 20), (30, 30)}


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    for name, value in (("ant", 256 * 40), ("bee", 256 * 200 + 255)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            picture = np.full((6, 6), value, np.uint16)
            Image.fromarray(picture).save(tmp_path / "images" / name / f"{number}.png")
    split = load_split(prepare(DataSettings(source=f"folder:{tmp_path / 'images'}"), 6), "train")
    assert split.images.shape[3] == 1
    assert {(int(image[0, 0]), int(label)) for image, label in zip(split.images, split.labels, strict=True)} == {
        (40, 0),
        (200, 1),
    }


def test_pictures_without_a_fixed_range_are_refused(tmp_path):
    source = fill(tmp_path / "images")
    for number in range(12):
        (tmp_path / "images" / "bee" / f"{number}.png").unlink()
        Image.fromarray(np.ones((6, 6), np.float32)).save(tmp_path / "images" / "bee" / f"{number}.tif")
    with pytest.raises(InputError, match=r"tif: not a readable image .*no fixed range"):
        prepare(DataSettings(source=source), 6)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_corrupt_picture_is_named(content, tmp_path):
    source = fill(tmp_path / "images", size=(40, 40), suffix="jpg")
    path = tmp_path / "images" / "bee" / "3.jpg"
    path.write_bytes(path.read_bytes()[:400] if content is None else content)
    with pytest.raises(InputError, match=r"bee/3\.jpg: not a readable image"):
        prepare(DataSettings(source=source), 6)
    assert not list((tmp_path / "cache" / "prepared").iterdir())


def test_a_changed_picture_is_decoded_again(tmp_path):
    source = fill(tmp_path / "images")
    first = prepare(DataSettings(source=source), 6)
    assert prepare(DataSettings(source=source), 6).folder == first.folder
    Image.new("RGB", (6, 6), (1, 2, 3)).save(tmp_path / "images" / "bee" / "extra.png")
    assert sum(prepare(DataSettings(source=source), 6).sizes.values()) == 25


def test_bad_folders_are_refused(tmp_path):
    images = tmp_path / "images"
    with pytest.raises(InputError, match="no such folder; expected one folder of images for each class"):
        prepare(DataSettings(source=f"folder:{images}"), 6)
    (images / "ant").mkdir(parents=True)
    with pytest.raises(InputError, match="1 class folders; expected at least 2"):
        prepare(DataSettings(source=f"folder:{images}"), 6)
    (images / "bee").mkdir()
    (images / "bee" / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=r"ant: no image; expected files such as .png or .jpg"):
        prepare(DataSettings(source=f"folder:{images}"), 6)
    fill(tmp_path / "split" / "train")
    fill(tmp_path / "split" / "test", classes=("ant", "wasp"), count=2)
    with pytest.raises(InputError, match="class 'wasp' is not among the training classes"):
        prepare(DataSettings(source=f"folder:{tmp_path / 'split'}"), 6)
    fill(tmp_path / "few", count=1)
    with pytest.raises(InputError, match="0 validation images; expected at least 2"):
        prepare(DataSettings(source=f"folder:{tmp_path / 'few'}"), 6)


@pytest.mark.parametrize(
    ("source", "hint"),
    [("digit", "digits"), ("cifar_10", "cifar10"), ("npz", "npz:PATH"), ("folder:", "folder:PATH"), ("", None)],
)
def test_an_unknown_source_names_the_nearest(source, hint):
    said = f"Did you mean '{hint}'" if hint else "known: digits, npz:PATH"
    with pytest.raises(InputError, match=f"data source '{source}' is unknown; .*{said}"):
        prepare(DataSettings(source=source), 6)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "svhn", "eurosat"])
def test_a_data_set_that_is_not_there_and_may_not_be_downloaded(name, tmp_path):
    settings = DataSettings(source=name, root=str(tmp_path / "empty"), download=False)
    with pytest.raises(UnavailableError, match=f"'{name}': not under .*use npz:PATH or folder:PATH"):
        prepare(settings, 32)


def test_every_named_data_set_exists_in_torchvision():
    from torchvision import datasets

    assert all(hasattr(datasets, class_name) for class_name, _, _ in sources.TORCHVISION.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 2},
        {"validation_fraction": 0},
        {"validation_fraction": 0.9},
        {"test_fraction": float("nan")},
        {"train_images": 1},
        {"split_seed": -1},
        {"memory_megabytes": -1},
        {"sources": "digits"},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        DataSettings.model_validate(wrong)


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match=r"cannot write prepared images .*; set GENAS_CACHE"):
        prepare(DataSettings(), 8)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UnavailableError, match="No space left on device"):
        prepare(DataSettings(), 8)
    assert not list((tmp_path / "cache" / "prepared").iterdir())


def test_a_damaged_cache_is_told():
    info = prepare(DataSettings(), 8)
    path = info.folder / "info.json"
    known = json.loads(path.read_text())
    format_1 = {key: value for key, value in known.items() if key not in ("format", "digest")}
    endless = json.dumps({**format_1, "side": math.inf})
    for content in (
        "",
        "{}",
        "[]",
        json.dumps({**known, "sizes": 3}),
        endless,
        json.dumps({**known, "side": math.inf}),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match="not a folder of prepared images; delete it and run again"):
            open_prepared(info.folder, 4096)


def test_an_npz_with_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "some.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_images", "train_labels"):
            archive.writestr(f"{name}.npy", b"no array")
    with pytest.raises(InputError, match="member 'train_images' is no array"):
        prepare(DataSettings(source=f"npz:{path}"), 8)
