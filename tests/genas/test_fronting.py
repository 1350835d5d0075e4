"""A front of a few tiny networks, searched and trained once for all tests here."""

import json
import runpy
import shutil
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

import genas.fronting
import genas.relaxing
from analysis.front_file import read_front
from analysis.fronts import Member, member_to_json
from data_gen import read_store
from data_gen.worker import _save
from genas.config import Run, load_run
from genas.front_settings import FrontSettings
from genas.front_words import fronted
from genas.fronting import RANKING, STAGE, _Point, _spread, _still_open, front, scaled_space
from genas.kept_weights import described_digest, read_weights
from genas.standing import status
from supernet import Architecture, InputError, OpSubset
from supernet.darts import Darts
from supernet.files import read_json, write_json
from supernet.network import build_network
from tests.genas.test_pipeline import committed
from training import load_split, prepare, train
from training.images import normalise

RECIPE = """
data: {source: digits, train_images: 100, validation_images: 100, test_images: 100}
space: {kind: darts, input_size: 8, cells: 3, channels: 4, nodes: 2,
        operations: [skip_connect, sep_conv_3x3, max_pool_3x3]}
front:
  widths: [0.5, 1]
  candidates: 6
  cheap_epochs: 1
  margin: 0.5
  train: 4
  search: {epochs: 3, warmup: 1, batch_size: 25, relaxation: sampled, partial: 1, architecture_rate: 0.05}
generate:
  recipe: {epochs: 2, batch_size: 20, learning_rate: 0.1, crop_padding: 1, flip: false}
workers: {device: cpu, cpu_workers: 1, retries: 0}
"""
SUBSETS = """
data: {source: digits, train_images: 60, validation_images: 50, test_images: 50}
space: {kind: op_subset, input_size: 8, layers: [{channels: 4}, {channels: 8, stride: 2}], head_channels: 16}
front:
  method: norms
  searches: 2
  candidates: 3
  train: 3
  latency_batches: []
  search: {epochs: 1, warmup: 0, batch_size: 15, relaxation: sampled, partial: 1}
generate:
  recipe: {epochs: 1, batch_size: 20, learning_rate: 0.1, crop_padding: 1, flip: false}
workers: {device: cpu, cpu_workers: 1, retries: 0}
"""
FAMILIES = """
data: {source: digits, train_images: 60, validation_images: 50, test_images: 50}
space: {kind: families, input_size: 8, family: vgg}
"""


@dataclass(frozen=True)
class Fronted:
    """A run with a front, and what the stage returned."""

    run: Run
    result: dict


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Not to be changed: see ``again``."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "cells.yml").write_text(RECIPE)
    published = [Member("a", "published", 0.5, 100, "test", 1500, 20_000), Member("b", "published", 0.4, 100, "test",
                 1_000_000, 20_000)]  # fmt: skip
    write_json(folder / "beside.json", {"published": [member_to_json(one) for one in published], "source": "nowhere"})
    run = load_run(
        folder / "cells.yml", [f"front.beside={{published: {folder / 'beside.json'}}}"], tmp_path_factory.mktemp("logs")
    )
    return Fronted(run, front(run))


@pytest.fixture
def again(done, tmp_path):
    """The finished run once more, to be changed, under some overrides."""
    shutil.copytree(done.run.folder, tmp_path / "logs" / "cells")

    def open_(*overrides):
        return load_run("cells", list(overrides), tmp_path / "logs")

    return open_


@pytest.fixture
def subsets(tmp_path):
    path = tmp_path / "subsets.yml"
    path.write_text(SUBSETS)

    def open_(*overrides):
        return load_run(path, list(overrides), tmp_path / "logs")

    return open_


@pytest.fixture
def at_rest(monkeypatch):
    """From now on nothing may be searched, and no network measured or written."""

    def refused(*arguments, **options):
        raise AssertionError("made once more")

    monkeypatch.setattr(genas.relaxing, "search_differentiably", refused)
    for name in ("measure", "measured_latency", "write_model"):
        monkeypatch.setattr(genas.fronting, name, refused)


@pytest.fixture
def here(monkeypatch):
    """Trainings are made in this process, which is ready, by what a worker makes them with. Gives their stages."""
    stages = []

    def train_jobs(run, store, jobs, task, progress):
        stages.append(jobs[0].stage)
        training, validation = (load_split(task.data, name) for name in ("train", "validation"))
        known = store.accuracies(jobs[0].stage)
        for job in jobs:
            if job.id in known:
                continue
            attempt, network = store.start(job, 1), build_network(task.space.graph(job.architecture), job.seed)
            result = train(
                network, training, validation, task.data.normalisation, task.recipe, job.seed, job.architecture.key
            )
            if task.weights is not None:
                _save(network, task.weights / f"{job.architecture.key}-{job.seed}.safetensors")
            store.commit(job, attempt, result.to_json())

    monkeypatch.setattr(genas.fronting, "train_jobs", train_jobs)
    return stages


def measured(result):
    """What is no matter of the clock, as a file keeps it."""
    return json.loads(json.dumps({key: value for key, value in result.items() if key != "seconds"}))


def accuracies(run, stage):
    """By key, of each seed."""
    store = read_store(run.store)
    try:
        found = {}
        for label in store.labels(stage):
            found.setdefault(label.key, []).append(label.accuracy)
        return found
    finally:
        store.close()


class TestWritten:
    def test_the_file_is_what_the_report_reads(self, done):
        found, result = read_front(done.run.folder), done.result
        assert (found.method, found.cost, found.candidates, found.ranked) == ("preferences", "params", 6, 6)
        assert found.distinct >= 6
        assert 1 <= len(found.members) == found.trained <= 4
        assert result["failed"] == 0
        assert [member.plain() for member in found.members] == [
            genas.fronting.member_from_json(member, "here") for member in result["members"]
        ]
        assert found.search.genotypes > 1
        assert (found.search.epochs, len(found.search.history)) == (3, 3)
        assert result["search"]["searches"] == 1
        assert found.cheap_tau is None or found.cheap_tau.architectures == found.trained

    def test_members_are_what_was_trained(self, done):
        run, members = done.run, done.result["members"]
        short, full = accuracies(run, RANKING), accuracies(run, STAGE)
        assert len(short) == 6
        assert set(full) == {member["key"] for member in members} <= set(short)
        assert [member["params"] for member in members] == sorted(member["params"] for member in members)
        for member in members:
            assert [member["cheap"]] == short[member["key"]]
            assert [1 - member["validation_error"]] == pytest.approx(full[member["key"]])
            assert 0 <= member["preference"] <= 1
            assert member["member"] in ("width_0_5", "width_1")
            assert member["architecture"].startswith(f"{member['member']}: normal ")
            assert member["note"].startswith(member["member"].replace("_", " ") + ", preference ")
            assert member["costs"]["params"] == member["params"]
            assert member["seeds"] == 1

    def test_weights_of_every_training_are_kept(self, done):
        folder = done.run.folder / "front" / "weights"
        names = {f"{member['key']}-0" for member in done.result["members"]}
        assert {path.stem for path in folder.iterdir()} == names
        for name in names:
            path = folder / f"{name}.safetensors"
            assert read_weights(path)
            assert described_digest(path)

    def test_validation_errors_decide_what_is_on_the_front(self, done):
        members = done.result["members"]
        plane = [(member["params"], member["validation_error"]) for member in members]

        def beaten(own):
            return any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in plane)

        for member, own in zip(members, plane, strict=True):
            assert member["on_front"] == (not beaten(own) and plane.index(own) == members.index(member))
        assert any(member["on_front"] for member in members)

    def test_the_test_images_are_asked_of_the_front_alone(self, done):
        for member in done.result["members"]:
            split = "test" if member["on_front"] else "validation"
            own = member["test_error"] if member["on_front"] else member["validation_error"]
            assert (member["split"], member["error"]) == (split, own)
            assert (member["test_error"] is None) == (not member["on_front"])
            assert list(member["latency"]) == (["cpu batch 1"] if member["on_front"] else [])
        kept = read_json(done.run.folder / "front" / "test.json")["errors"]
        assert len(kept) == sum(member["on_front"] for member in done.result["members"])

    def test_models_of_the_front_predict(self, done):
        run, folder = done.run, done.run.folder / "front" / "models"
        best = {member["key"]: member for member in done.result["members"] if member["on_front"]}
        assert {path.name for path in folder.iterdir()} == set(best)
        info = prepare(run.settings.data, 8, ("test",))
        test = load_split(info, "test")
        images = normalise(test.images, info.normalisation)
        for key, member in best.items():
            weights = folder / key / "weights.safetensors"
            model = runpy.run_path(str(folder / key / "model.py"))["load"](weights).eval()
            with torch.inference_mode():
                wrong = (model(images).argmax(dim=1) != test.labels).float().mean()
            assert float(wrong) == pytest.approx(member["test_error"])
            kept = load_file(run.folder / "front" / "weights" / f"{key}-0.safetensors")
            assert {name: tensor.tolist() for name, tensor in load_file(weights).items()} == {
                name: tensor.tolist() for name, tensor in kept.items()
            }

    def test_the_published_stand_beside(self, done):
        (beside,) = read_front(done.run.folder).beside
        assert (beside.name, [member.name for member in beside.members]) == ("published", ["a", "b"])
        reference = done.result["reference"]
        costliest = max(member["params"] for member in done.result["members"])
        assert reference == {"cost": pytest.approx(costliest * 1.001), "error": pytest.approx(0.9)}
        area = max(0.0, (reference["cost"] - 1500) / 1e6 * (0.9 - 0.5) * 100)  # of b, which costs too much, nothing
        assert beside.hypervolume.value == pytest.approx(area)

    def test_another_run_stands_beside(self, done, again, at_rest):
        own = done.run.folder / "front" / "front.json"
        (beside,) = front(again(f"front.beside={{mine: {own}}}"))["beside"]
        best = [member["key"] for member in done.result["members"] if member["on_front"]]
        assert (beside["name"], [member["name"] for member in beside["members"]]) == ("mine", best)
        assert {member["series"] for member in beside["members"]} == {"mine"}
        assert beside["hypervolume"] == done.result["hypervolume"]

    def test_a_set_that_the_file_does_not_have(self, done, again, at_rest):
        path = done.run.settings.front.beside["published"]
        with pytest.raises(InputError, match=r"\.publishd: .* has no set 'publishd'; .*Did you mean 'published'"):
            front(again(f"front.beside={{publishd: {path}}}"))

    def test_words(self, done):
        text = fronted(done.result)
        assert text.startswith("front: one search for all preferences (")
        assert f"{done.result['trained']} trained in full" in text
        best = [member for member in done.result["members"] if member["on_front"]]
        assert f"validation chose these {len(best)}, test images were read once; latency: cpu batch 1" in text
        assert all(f"{member['params']:,}" in text and f"{member['test_error']:.2%}" in text for member in best)
        assert "beside it published: " in text
        assert "M parameters x points" in text


class TestAgain:
    def test_nothing_is_repeated(self, again, done, at_rest):
        run = again()
        before = committed(run)
        assert measured(front(run)) == measured(done.result)
        assert committed(run) == before

    def test_more_candidates_add_to_it(self, again, done, here):
        run = again("front.candidates=8", "front.latency_batches=[]")
        before, short = committed(run), accuracies(run, RANKING)
        result = front(run)
        assert here == [RANKING, STAGE]
        assert committed(run).items() >= before.items()
        assert accuracies(run, RANKING).items() >= short.items()
        assert result["ranked"] == 8

    def test_test_errors_do_not_choose(self, again, done, monkeypatch):
        run = again()
        (run.folder / "front" / "test.json").unlink()
        monkeypatch.setattr(genas.fronting, "measure", lambda *a: (0.0, 9.0))
        members = front(run)["members"]
        own = [(member["key"], member["on_front"]) for member in done.result["members"]]
        assert [(member["key"], member["on_front"]) for member in members] == own
        assert {member["test_error"] for member in members if member["on_front"]} == {1.0}

    def test_weights_that_are_gone_are_trained_again(self, again, done, here):
        run = again()
        path = sorted((run.folder / "front" / "weights").glob("*.safetensors"))[0]
        whole = path.read_bytes()
        path.unlink()
        before = committed(run)
        assert measured(front(run)) == measured(done.result)
        assert path.read_bytes() == whole
        assert sum(moment != before[job] for job, moment in committed(run).items()) == 1

    def test_errors_are_means_over_seeds(self, again, here):
        run = again("front.seeds=2", "front.train=2", "front.latency_batches=[]")
        result = front(run)
        full = accuracies(run, STAGE)
        kept = read_json(run.folder / "front" / "test.json")["errors"]
        assert sorted(member["seeds"] for member in result["members"]) == [1, 1, 2, 2]  # two were trained before
        for member in result["members"]:
            values = full[member["key"]]
            assert len(values) == member["seeds"]
            assert member["validation_error"] == pytest.approx(1 - sum(values) / len(values))
            if member["on_front"]:
                own = [error for name, error in kept.items() if name.startswith(member["key"] + "-")]
                assert len(own) == member["seeds"]
                assert member["test_error"] == pytest.approx(sum(own) / len(own))

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("generate.recipe.learning_rate=0.2", r"results of front .*recipe\.learning_rate: 0\.1 -> 0\.2"),
            ("front.widths=[1]", r"results of front .*space\.members\.width_0_5: "),
            ("limits={params: 100}", r"none of the \d+ networks that were found keeps the limits \(params\)"),
            ("front.cheap_epochs=2", r"front\.cheap_epochs: 2 saves nothing; expected less than the recipe's 2"),
            ("front.cheap_epochs=5", r"front\.cheap_epochs: 5 saves nothing"),
            (
                "front.beside={published: nowhere.json}",
                r"front\.beside\.published: no file nowhere\.json; genas import-study",
            ),
            ("front.depths=[2]", r"front\.depths: .*cells: Input should be greater than or equal to 3, got 2"),
            ("front.shared={nodes: 3}", r"front\.shared: changes what is chosen"),
            ("front.method=predictor", r"has no winner/front\.json; run `genas search cells --front params` first"),
        ],
    )
    def test_refusals_leave_the_results(self, again, at_rest, override, said):
        run = again(override)
        before = committed(run)
        with pytest.raises(InputError, match=said):
            front(run)
        assert committed(run) == before

    def test_limits_are_kept(self, again, done, here):
        least = done.result["members"][0]["params"]
        result = front(again(f"limits={{params: {least}}}", "front.latency_batches=[]"))
        assert {member["params"] for member in result["members"]} <= set(range(least + 1))
        assert result["distinct"] < done.result["distinct"]

    def test_a_reference_of_the_recipe(self, again, done, at_rest):
        result = front(again("front.reference={cost: 5_000, error: 0.95}"))
        assert result["reference"] == {"cost": 5000, "error": 0.95}
        assert result["hypervolume"]["value"] > done.result["hypervolume"]["value"]

    def test_status_and_report(self, again, done, genas):
        logs = again().folder.parent
        counted = status(logs / "cells")["front"]
        assert (counted["planned"], counted["done"], counted["failed"]) == (6 + done.result["trained"],) * 2 + (0,)
        answer = genas("status", "cells", "--logs", logs)
        assert answer.code == 0
        assert f"front: {6 + done.result['trained']} of {6 + done.result['trained']} trained" in answer.out
        answer = genas("report", "cells", "--logs", logs)
        assert (answer.code, answer.err) == (0, "")
        page = (logs / "cells" / "report.html").read_text()
        assert done.result["members"][0]["key"] in page or done.result["members"][0]["architecture"] in page

    def test_the_command_by_the_name_of_the_run(self, again, done, genas, at_rest):
        run = again()
        before = committed(run)
        answer = genas("front", "cells", "--logs", run.folder.parent, "--json")
        assert answer.code == 0
        assert measured(json.loads(answer.out)) == measured(done.result)
        answer = genas("front", "cells", "--logs", run.folder.parent)
        assert answer.code == 0
        assert "front: one search for all preferences" in answer.out
        assert "Next: genas ensemble cells | genas report cells" in answer.out
        assert committed(run) == before


class TestFailures:
    def test_those_of_short_trainings_count(self, subsets, monkeypatch, here):
        whole = genas.fronting.train_jobs

        def lazy(run, store, jobs, task, progress):
            return whole(run, store, jobs[1:] if jobs[0].stage == RANKING else jobs, task, progress)

        monkeypatch.setattr(genas.fronting, "train_jobs", lazy)
        run = subsets("front.cheap_epochs=1", "front.margin=1", "generate.recipe.epochs=2", "front.widths=[1, 1.5]")
        result = front(run)
        assert (result["failed"], result["ranked"]) == (1, result["candidates"] - 1)
        assert all(member["cheap"] is not None for member in result["members"])

    @pytest.mark.parametrize(
        ("overrides", "which"),
        [([], "training"), (["front.cheap_epochs=1", "generate.recipe.epochs=2"], "short training")],
    )
    def test_where_all_failed_there_is_no_front(self, subsets, monkeypatch, overrides, which):
        monkeypatch.setattr(genas.fronting, "train_jobs", lambda *a: {})
        run = subsets(*overrides)
        with pytest.raises(InputError, match=f"every {which} failed; genas status subsets tells why"):
            front(run)
        assert read_front(run.folder) is None


class TestMethods:
    @pytest.mark.parametrize(("method", "strengths"), [("norms", (7e-4, 0.2)), ("costs", (0.0, 1.0))])
    def test_several_searches(self, subsets, method, strengths, here):
        run = subsets(f"front.method={method}", "front.widths=[1, 1.5]", "front.cost=macs")
        result = front(run)
        found = read_front(run.folder)
        assert (found.method, found.cost, found.ranked) == (method, "macs", 0)
        assert (result["search"]["searches"], result["search"]["diverged"]) == (2, 0)
        assert found.search.epochs == 2
        assert found.hypervolume.unit == "M MACs x points"
        assert {member.preference for member in found.members} <= set(strengths)
        word = "l2" if method == "norms" else "preference"
        assert all(f", {word} {member.preference:.3g}" in member.note for member in found.members)
        assert all(member.cheap is None for member in found.members)
        assert fronted(result).startswith("front: 2 searches, ")

    def test_what_the_predictor_found(self, subsets, at_rest, here, monkeypatch):
        monkeypatch.setattr(genas.fronting, "write_model", lambda *a: 0.0)
        monkeypatch.setattr(genas.fronting, "measure", lambda *a: (0.5, 1.0))
        run = subsets("front.method=predictor")
        space = run.settings.space
        rows = [space.cheapest("params"), Architecture(space.name, (1,) * len(space.cardinalities))]
        texts = [space.format(one) for one in rows]
        content = {"front": [{"architecture": one} for one in (*texts, texts[0])]}
        write_json(run.folder / "winner" / "front.json", content)
        result = front(run)
        found = read_front(run.folder)
        assert [member.architecture for member in found.members] == [f"width_1: {one}" for one in texts]
        assert [(member.preference, member.note) for member in found.members] == [(None, ""), (None, "")]
        assert (found.distinct, found.search.genotypes, found.search.seconds) == (2, 2 + 1, 0)
        assert fronted(result).startswith("front: the points of search --front (")

    def test_the_points_of_another_space_are_refused(self, subsets):
        run = subsets("front.method=predictor")
        write_json(run.folder / "winner" / "front.json", {"front": [{"architecture": "normal skip_connect@0"}]})
        with pytest.raises(InputError, match="architecture"):
            front(run)

    def test_a_union_is_its_own_space(self, subsets, at_rest, here, monkeypatch):
        monkeypatch.setattr(genas.fronting, "write_model", lambda *a: 0.0)
        monkeypatch.setattr(genas.fronting, "measure", lambda *a: (0.5, 1.0))
        small, large = (f"{{kind: op_subset, layers: [{{channels: {channels}}}]}}" for channels in (4, 8))
        members = f"{{small: {small}, large: {large}}}"
        run = subsets("front.method=predictor", f"space={{kind: union, input_size: 8, members: {members}}}")
        space = run.settings.space
        one = space.cheapest("params")
        write_json(run.folder / "winner" / "front.json", {"front": [{"architecture": space.format(one)}]})
        (member,) = front(run)["members"]
        assert (member["key"], member["member"]) == (one.key, "small")


class TestCommand:
    @pytest.mark.parametrize(
        ("recipe", "overrides", "said"),
        [
            (FAMILIES, [], "families"),
            (RECIPE, ["front.cheap_epochs=2"], "front.cheap_epochs: 2 saves nothing"),
            (RECIPE, ["front.method=predictor"], "has no winner/front.json"),
            (RECIPE, ["front.beside={published: nowhere.json}"], "no file nowhere.json"),
            (RECIPE, ["front.widths=[1, 1.0000001]"], "the same to six digits"),
            (RECIPE, ["front.widths=[0.00001]"], "front.widths"),
            (RECIPE, ["front.shared={chanels: 8}"], "front.shared.chanels: no setting of space 'darts'"),
            (RECIPE, ["front.method=preference"], "Did you mean 'preferences'"),
            (SUBSETS, ["front.depths=[3]"], "space 'op_subset' has no cells to count"),
            (SUBSETS, ["front.recipe={auxiliary: 0.4}"], "front.recipe.auxiliary"),
        ],
    )
    def test_what_cannot_be_is_2_and_leaves_no_trace(self, genas, tmp_path, recipe, overrides, said):
        path = tmp_path / "own.yml"
        path.write_text(recipe)
        answer = genas("front", path, "--logs", tmp_path / "logs", *(f"--set={one}" for one in overrides))
        assert (answer.code, answer.out) == (2, "")
        assert said in " ".join(answer.err.split())
        assert "Traceback" not in answer.err
        assert not (tmp_path / "logs").exists()


CELLS = Darts(input_size=8, cells=3, channels=8, nodes=1, operations=("skip_connect", "sep_conv_3x3"))


class TestScaledSpace:
    def test_every_width_and_depth(self):
        union = scaled_space(CELLS, (0.5, 1.0, 1.25), (3, 6))
        sizes = {name: (member.channels, member.cells) for name, member in union.members.items()}
        assert sizes == {
            "width_0_5_cells_3": (4, 3), "width_1_cells_3": (8, 3), "width_1_25_cells_3": (10, 3),
            "width_0_5_cells_6": (4, 6), "width_1_cells_6": (8, 6), "width_1_25_cells_6": (10, 6),
        }  # fmt: skip
        assert list(sizes)[:2] == ["width_0_5_cells_3", "width_1_cells_3"]
        assert list(scaled_space(CELLS, (1.0,), ()).members) == ["width_1"]

    @given(st.tuples(*(st.integers(0, count - 1) for count in CELLS.cardinalities)))
    def test_the_networks_are_those_of_the_space(self, choices):
        union = scaled_space(CELLS, (0.5, 1.0), ())
        for number, space in enumerate((CELLS.narrower(0.5), CELLS)):
            own = space.graph(Architecture(space.name, choices))
            assert union.graph(Architecture(union.name, (number, *choices))).digest() == own.digest()

    def test_a_union_stays_as_it_is(self):
        union = scaled_space(CELLS, (0.5, 1.0), ())
        assert scaled_space(union, (1.0,), ()) is union
        for widths, depths in (((0.5,), ()), ((1.0,), (3,)), ((0.5, 1.0), (3,))):
            with pytest.raises(InputError, match=r"front\.widths, front\.depths: a union has members of its own"):
                scaled_space(union, widths, depths)

    @pytest.mark.parametrize(
        ("space", "widths", "depths", "said"),
        [
            (OpSubset(), (1.0,), (3,), r"front\.depths: space 'op_subset' has no cells to count; leave it out"),
            (CELLS, (1.0,), (3, 2), r"space 'darts': .*cells: Input should be greater than or equal to 3, got 2"),
            (CELLS.model_copy(update={"channels": 16_000}), (2.0,), (), r"channels: Input should be less than or"),
            (CELLS, tuple(range(1, 13)), (3, 4, 5, 6), r"members: Dictionary should have at most 36 items"),
            (CELLS, (1.0, 1.0000001), (), r"front\.widths: two of them are the same to six digits"),
        ],
    )
    def test_refusals(self, space, widths, depths, said):
        with pytest.raises(InputError, match=said):
            scaled_space(space, widths, depths)

    @pytest.mark.parametrize(
        "settings",
        [{"widths": ()}, {"widths": (1.0, 1.0)}, {"widths": (0.0,)}, {"widths": (1e-5,)}, {"depths": (3, 3)},
         {"searches": 1}, {"margin": 1.1}, {"norm_weights": (0.0, 1.0)}],
    )  # fmt: skip
    def test_settings_that_mean_nothing(self, settings):
        with pytest.raises(ValidationError):
            FrontSettings.model_validate(settings)


def points(*costs):
    return [_Point(Architecture("union", divmod(number, 36)), None, cost) for number, cost in enumerate(costs)]


def cheaply(known, *values):
    return {point.architecture.key: value for point, value in zip(known, values, strict=True) if value is not None}


class TestStillOpen:
    def test_the_margin_by_hand(self):
        known = points(10, 20, 30, 40)
        cheap = cheaply(known, 0.5, 0.75, 0.625, 0.5)
        assert _still_open(known, cheap, 0.0, 4) == known[:2]
        assert _still_open(known, cheap, 0.125, 4) == known[:3]  # as far as the margin, and not more
        assert _still_open(known, cheap, 0.25, 4) == known

    def test_one_of_the_same_cost_beats(self):
        known = points(10, 10)
        assert _still_open(known, cheaply(known, 0.75, 0.5), 0.125, 2) == known[:1]
        assert _still_open(known, cheaply(known, 0.5, 0.75), 0.125, 2) == known[1:]
        assert _still_open(known, cheaply(known, 0.5, 0.5), 0.0, 2) == known

    def test_fronts_come_first_where_there_are_too_many(self):
        known = points(10, 20, 30, 40, 50)
        cheap = cheaply(known, 0.5, 0.375, 0.625, 0.25, 0.75)
        # The first front is 10, 30, 50, the second 20, the third 40.
        assert [point.cost for point in _still_open(known, cheap, 1.0, 4)] == [10, 20, 30, 50]
        assert [point.cost for point in _still_open(known, cheap, 1.0, 3)] == [10, 30, 50]
        assert [point.cost for point in _still_open(known, cheap, 1.0, 2)] == [10, 50]

    def test_without_a_short_training_there_is_nothing_to_say(self):
        known = points(10, 20, 30)
        assert _still_open(known, cheaply(known, 0.5, None, 0.75), 0.125, 3) == [known[0], known[2]]
        assert _still_open(known, {}, 0.0, 3) == known
        assert _still_open(known, {}, 0.0, 2) == [known[0], known[2]]


class TestSpread:
    def test_by_hand(self):
        known = points(*range(10))
        assert [point.cost for point in _spread(known, 5)] == [0, 2, 4, 7, 9]
        assert _spread(known, 10) == known
        assert _spread(known, 0) == []

    @given(st.integers(0, 60), st.integers(1, 60))
    def test_so_many_in_their_order_with_both_ends(self, count, most):
        known = points(*range(count))
        chosen = [point.cost for point in _spread(known, most)]
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, most)
        if count and most > 1:
            assert (chosen[0], chosen[-1]) == (0, count - 1)


class TestWords:
    def test_warnings(self, done):
        search = {**done.result["search"], "collapsed": False}
        plain = {**done.result, "search": search}
        for word in ("collapsed", "diverged", "failed"):
            assert word not in fronted(plain)
        assert "collapsed: most of what the search" in fronted({**plain, "search": {**search, "collapsed": True}})
        assert "  1 search diverged and gave" in fronted({**plain, "search": {**search, "diverged": 1}})
        assert "  2 searches diverged and gave" in fronted({**plain, "search": {**search, "diverged": 2}})
        assert "  1 training failed; genas status says why" in fronted({**plain, "failed": 1})
        assert "  3 trainings failed; genas status says why" in fronted({**plain, "failed": 3})

    def test_many_members_and_no_latency(self, done):
        best = next(member for member in done.result["members"] if member["on_front"])
        text = fronted({**done.result, "members": [{**best, "latency": {}}] * 23, "beside": [], "cheap_tau": None})
        assert text.count(best["architecture"][:60]) == 20
        assert "  and 3 more\n" in text
        assert "validation chose these 23, test images were read once\n" in text
        for word in ("latency:", "beside", "Kendall"):
            assert word not in text

    def test_how_well_short_trainings_rank(self, done):
        tau = {"tau": 0.5, "ci95": [-0.25, 1.0], "architectures": 7}
        text = fronted({**done.result, "cheap_tau": tau})
        assert "Kendall tau 0.50 [-0.25, 1.00] over 7 that were trained in full" in text
