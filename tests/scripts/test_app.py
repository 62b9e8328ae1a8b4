"""scripts/app.py without its page: one file analysed, against the networks asked by hand; flags, users, bad files."""

import csv
import dataclasses
import io
import json
import shutil
import stat

import numpy as np
import pytest
import torch
from app_pieces import BAD, app, remember, write_bad, write_networks, write_phantom
from in_process import script

from core.tumour_labels import LABELS
from data.reading.radiograph import load_radiograph
from data.views.preprocessing import Preprocessing
from evaluation.maps.error_maps import describe
from models.backbones.finetuned import load_finetuned
from phantoms.layouts.files import write_picture
from phantoms.plan import Plan, phantoms
from workflows.regions.answers.rule import combined
from workflows.regions.records.views import sliding_regions
from workflows.regions.web import service
from workflows.regions.web.case import result, result_csv, result_json, result_panel
from workflows.regions.web.case_page import case_html
from workflows.regions.web.map_page import map_html
from workflows.regions.web.server import FAILED, Refused, read_upload
from workflows.regions.web.uploads import Upload

TEMPERATURES = {
    "tumour": {"temperature": 2.0, "reason": "", "radiographs": 50},
    "abnormal": 0.5,
    "bone": None,
}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with two small networks, a phantom as PNG and as DICOM, and bad files."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("app")
    write_networks(folder, TEMPERATURES)
    write_phantom(folder / "phantom")
    write_phantom(folder / "phantom", "dicom")
    write_bad(folder / "bad")
    return folder


def networks(there, **flags):
    config = app().Config(**{"model_path": [there / "fold0"], "mae_path": there / "mae"} | flags)
    config.regions = config.regions or "map"
    return service.Networks(config)


def uploaded(file):
    """An upload with the content of a file."""
    upload = Upload()
    upload.write(file.read_bytes())
    upload.finish()
    return upload


def test_the_answer_is_that_of_whole_and_regions(there):
    case = networks(there, regions="windows").analyse(there / "phantom.png")
    loaded = load_finetuned(there / "fold0", "region-guided")
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    loaded.model.normalise = preprocessing.normalise
    pixels = load_radiograph(there / "phantom.png")
    crops = [region.crop for region in sliding_regions(pixels.shape)]
    scaled = preprocessing.scale(pixels)
    parts = [scaled, *(scaled[y0:y1, x0:x1] for x0, y0, x1, y1 in crops)]
    with torch.no_grad():
        logits = loaded.model.outputs(
            torch.stack([preprocessing.fit(np.ascontiguousarray(p)) for p in parts])
        ).double()
    wanted = torch.sigmoid(logits)
    wanted[:, 0] = torch.sigmoid(logits[:, 0] / 0.5)
    wanted[:, 1:5] = torch.softmax(logits[:, 1:5] / 2, 1)
    wanted[:, 5:34], wanted[:, 34:37] = (
        torch.softmax(logits[:, 5:34], 1),
        torch.softmax(logits[:, 34:37], 1),
    )
    assert len(case.regions) == 9 and wanted[:, 1:5].std(0).max() > 0.01
    np.testing.assert_allclose(case.views, wanted, atol=1e-5)
    answered = combined(wanted.numpy())
    np.testing.assert_allclose(case.answer, answered.probabilities, atol=1e-5)
    assert case.chosen == {view for view in answered.views.values() if view > 0}
    assert {name: part.temperature for name, part in case.parts.items()} == {
        "abnormal": 0.5,
        "tumour": 2.0,
        "bone": None,
        "fracture": None,
        "implant": None,
    }
    assert np.array_equal(case.grey, scaled) and case.size == pixels.shape
    again = networks(there, regions="windows", model_path=[there / "fold0"] * 2).analyse(
        there / "phantom.png"
    )
    np.testing.assert_allclose(again.answer, case.answer, atol=1e-6)
    of_training = networks(there, regions="windows", model_path=[there]).analyse(
        there / "phantom.png"
    )  # its folds
    assert np.array_equal(of_training.answer, case.answer)


def test_a_radiograph_unlike_those_of_the_training_says_so_first_wherever_it_is_shown(
    there, tmp_path
):
    """A pelvis once got "abnormal 91 %, calibrated ... finger phalanges 40 %" of a network that knew no pelvis."""
    shutil.copytree(there / "fold0", tmp_path / "fold0")
    remember(tmp_path / "fold0")
    reader = networks(there, regions="none", mae_path=None, model_path=[tmp_path / "fold0"])
    knee, pelvis = (
        [*phantoms(Plan(77, 64, "clear", (region,), ("normal",), views=("ap",)), 2)][1]
        for region in ("knee", "hip")
    )
    cases = {
        name: reader.analyse(write_picture(tmp_path / name, phantom, "png8", 3, 0))
        for name, phantom in (("knee", knee), ("pelvis", pelvis))
    }
    told = "The network loses to chance on its validation radiographs."
    assert not cases["knee"].unlike and "warning alarm'" not in case_html(cases["knee"])
    assert (
        result(cases["knee"])["made"]["like training"] == "yes"
        and result(cases["knee"])["warning"] == told
    )
    case, told = cases["pelvis"], "DO NOT USE: unlike the training radiographs: at most "
    assert (
        case.unlike
        and next(iter(result(case))) == "warning"
        and result(case)["warning"].startswith(told)
    )
    assert result(case)["made"]["like training"] == "no"
    page = case_html(case)
    assert (
        "class='warning alarm'" in page
        and "class='said muted'" in page
        and page.index(told) < page.index("<figure") < page.index("<table")
    )
    rows = list(csv.DictReader(io.StringIO(result_csv(case))))
    assert next(iter(rows[0])) == "warning" and all(row["warning"].startswith(told) for row in rows)
    red, plain = np.asarray(result_panel(case)), np.asarray(result_panel(cases["knee"]))
    assert tuple(red[1, 1]) == (122, 31, 31) and tuple(plain[1, 1]) != (122, 31, 31)
    sentences = " ".join(case.told)
    for wanted in (
        "Network: region-guided classifier (Vision Transformer of width 32, 1 blocks",
        "Trained on: 600 radiographs of phantoms.",
        "Validation score: AUROC 0.41 on 30 validation radiographs: the network loses to chance "
        "(0.50).",
    ):
        assert wanted in sentences and wanted in page and wanted in rows[0]["networks"]
        assert wanted in " ".join(result(case)["networks"])
    assert (
        case.parts["tumour"].calibration
        == "calibrated on 50 radiographs of phantoms, temperature 2.00"
    )
    assert "calibrated on 50 radiographs of phantoms, temperature 2.00" in page
    assert {row["calibrated"] for row in rows if row["group"] == "tumour"} == {
        "on 50 radiographs of phantoms"
    }
    assert case.parts["abnormal"].calibrated_on == "radiographs of phantoms, how many is not stated"
    assert "No calibration holds" in page and "No calibration holds" not in case_html(cases["knee"])


def test_a_network_kept_without_a_reference_says_that_likeness_is_unknown(there, tmp_path):
    case = networks(there, regions="none", mae_path=None).analyse(there / "phantom.png")
    told = "It is unknown whether this radiograph is like the training radiographs."
    assert result(case)["warning"] == told and not case.unlike and told in case_html(case)
    assert (
        result(case)["made"]["like training"] == "unknown"
        and result(case)["made"]["likeness"] is None
    )
    assert "Trained on: not stated." in case_html(
        case
    ) and "Validation score: not stated." in case_html(case)
    shutil.copytree(there / "fold0", tmp_path / "fold0")
    (tmp_path / "fold0" / "reference.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"fold0/reference\.npz: not a reference"):
        networks(there, model_path=[tmp_path / "fold0"])


def test_map_regions_and_downloads_of_a_phantom(there):
    case = networks(there).analyse(there / "phantom.png")
    assert case.error_map.shape == case.grey.shape and np.nanmax(case.error_map) > 0
    assert 1 <= len(case.regions) <= 3 and len(case.views) == 1 + len(case.regions)
    height, width = case.size
    for name, (x0, y0, x1, y1) in case.regions:
        assert name.startswith("peak") and 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    told = json.loads(result_json(case))
    assert told == result(case) and list(told["probabilities"]) == list(LABELS)
    assert told["decisions"]["tumour"]["calibrated"] and not told["decisions"]["bone"]["calibrated"]
    assert (
        told["made"]["regions"] == "error map" and len(told["made"]["networks"][0]["sha256"]) == 64
    )
    rows = list(csv.DictReader(io.StringIO(result_csv(case))))
    assert [row["label"] for row in rows] == list(LABELS)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], case.answer, rtol=1e-6)
    np.testing.assert_allclose([float(row["peak 1"]) for row in rows], case.views[1], rtol=1e-6)
    assert result_panel(case).width > 700
    again = networks(there).analyse(there / "phantom.png")
    assert np.array_equal(again.error_map, case.error_map) and again.regions == case.regions
    page = case_html(case)
    assert page.count("<rect ") == len(case.regions) and "alt='error map'" in page
    bare = networks(there, mae_path=None, regions="none").analyse(there / "phantom.png")
    assert bare.error_map is None and not bare.regions and "alt='error map'" not in case_html(bare)
    assert json.loads(result_json(bare))["error map"] is None


def test_a_dicom_is_the_same_radiograph_and_its_tags_are_nowhere(there):
    content = (there / "phantom.dcm").read_bytes()
    assert b"PHANTOM" in content.upper()
    case = networks(there).analyse(there / "phantom.dcm")
    page = case_html(case) + result_json(case)
    assert "phantom" not in page.lower() and str(there) not in page


def test_bad_files_are_a_sentence_on_the_page(there):
    reader = networks(there)
    for name, told in BAD.items():
        with pytest.raises(Refused, match=told) as refused:
            reader.analyse(there / "bad" / name)
        assert name not in str(refused.value) and "CANARY" not in str(refused.value)
        upload = uploaded(there / "bad" / name)
        page, status = read_upload(lambda path: case_html(reader.analyse(path)), upload.path)
        assert (
            status == 422
            and told in page
            and "class='refusal'" in page
            and FAILED not in page
            and name not in page
        )
        upload.close()


def test_an_upload_in_memory_is_read_as_a_file(there):
    reader = networks(there)
    for name in ("phantom.png", "phantom.dcm"):
        upload = uploaded(there / name)
        case = reader.analyse(upload.path)
        upload.close()
        assert np.array_equal(case.answer, reader.analyse(there / name).answer)


def test_a_masked_autoencoder_alone_gives_error_maps(there):
    """The map is that which the regions are found with, and its numbers are those of zero_shot_heatmap.py."""
    config = app().Config(mae_path=there / "mae")
    maps = service.ErrorMaps(config)
    case = maps.analyse(there / "phantom.png")
    both = networks(there).analyse(there / "phantom.png")
    assert np.array_equal(case.error_map, both.error_map) and np.array_equal(case.grey, both.grey)
    found, hits, preprocessing = maps.error_map(
        there / "phantom.png", load_radiograph(there / "phantom.png")
    )
    assert case.numbers == describe(found, hits, preprocessing.placement(case.size)[1])
    assert case.numbers["coverage"] == 1 and len(case.facts["networks"][0]["sha256"]) == 64
    page = map_html(case)
    assert (
        "What the map cannot say" in page and "alt='error map'" in page and str(there) not in page
    )
    with pytest.raises(Refused, match=BAD["black.png"]):
        maps.analyse(there / "bad" / "black.png")
    show = service.build_reader(config)
    assert "What the map cannot say" in show(there / "phantom.png")
    config.model_path = [there / "fold0"]
    config.regions = "map"
    assert "data-part='tumour'" in service.build_reader(config)(there / "phantom.png")


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 is open to other machines"),
        ({"host": "example.org"}, "--host 'example.org': expected an address"),
        ({"regions": "map", "mae_path": None}, "--regions map needs a masked autoencoder"),
        ({"port": 0}, "--port 0 is out of range"),
        ({"max_mb": 0.0}, "--max_mb 0.0 is out of range"),
        ({"total_mb": 50.0}, "--total_mb 50.0 is out of range; it must be at least --max_mb 100"),
        ({"mae_path": None, "model_path": []}, "give --model_path .*, --mae_path .*, or both"),
        (
            {"model_path": [], "regions": "windows"},
            "--regions windows needs a region-guided network",
        ),
        (
            {"names": ["http://reader.example.org"]},
            "--names 'http://reader.example.org': expected host names",
        ),
        ({"names": ["reader:80"]}, "--names 'reader:80': expected host names"),
        ({"names": ["*.example.org"]}, "without port"),
    ],
)
def test_wrong_flags(flags, told, there, monkeypatch):
    monkeypatch.delenv("APP_AUTH", raising=False)
    with pytest.raises(ValueError, match=told):
        service.check(dataclasses.replace(app().Config([there / "fold0"], there / "mae"), **flags))


def test_names_that_are_served(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "workstation")
    assert service.host_names(app().Config(names=["a.example"])) == ["a.example"]
    assert service.host_names(app().Config(host="0.0.0.0")) == ["workstation"]
    assert (
        service.is_local("::1")
        and service.is_local("127.0.0.1")
        and not service.is_local("10.0.0.1")
    )


def test_a_crash_writes_no_memory_to_a_disk():
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        service.forbid_core_dumps()
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def test_without_a_model_or_starlette_one_sentence_says_what_to_do(there, monkeypatch):
    with pytest.raises(FileNotFoundError, match="train_region_guided.py makes one"):
        networks(there, model_path=[there / "nowhere"])
    with pytest.raises(ValueError, match="describes no fine-tuned network"):
        networks(there, model_path=[there / "mae"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = script(app(), "--model_path", there / "nowhere")
    assert (
        done.returncode == 2
        and done.stderr
        == "app.py: starlette is not installed: pip install -r requirements-app.txt\n"
    )


def test_users_come_from_a_private_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "users"
    file.write_text("# reading room\nann:a long: password\n\nbob:12345678\n")
    file.chmod(0o600)
    read = service.read_users
    assert read(file) == {"ann": "a long: password", "bob": "12345678"}
    file.chmod(0o640)
    with pytest.raises(ValueError, match="others than its owner can read it; chmod 600"):
        read(file)
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    for content, line in (
        ("ann:short\n", 1),
        ("\nann\n", 2),
        (":longpassword", 1),
        ("a:12345678\na:12345678", 2),
    ):
        file.write_text(content)
        with pytest.raises(
            ValueError, match=f"users: line {line}: expected USER:PASSWORD"
        ) as refused:
            read(file)
        assert "1234" not in str(refused.value) and "short" not in str(refused.value)
    file.write_text("# nobody\n")
    with pytest.raises(ValueError, match="no line USER:PASSWORD"):
        read(file)
    with pytest.raises(FileNotFoundError, match="never a password") as refused:
        read(tmp_path / "ann:secret99")
    assert "secret99" not in str(refused.value)
    monkeypatch.setenv("APP_AUTH", "eve:environment")
    assert read(None) == {"eve": "environment"} and read(None) == {}  # no child process inherits it
