"""``cytoserve prompt``: what it writes, records and refuses."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import tifffile

from cytoserve import Prompts
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.prompt import read_prompts
from cytoserve.outputs import CELLS_OUTPUTS

CELLS = [
    {"box": [10, 5, 30, 26]},
    {"points": [[50, 35], [2, 2]], "point_labels": [1, 0]},
    {"box": [5, 43, 19, 57], "points": [[12, 50]], "point_labels": [1]},
]


@pytest.fixture
def prompt(triton, images, tmp_path, command):
    def run(*arguments):
        out = tmp_path / "out"
        return command("prompt", images / "x.png", "--out", out, "--url", triton.url, *arguments)

    return run


def asked(triton):
    return [request for request in triton.fake.requests if request.model == "sam_prompt"]


def test_everything_is_written_where_it_belongs(prompt, tmp_path, cells):
    result = prompt(
        "--box", "10,5,30,26", "--box", "40,25,60,45", "--save", ",".join(CELLS_OUTPUTS)
    )
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("2 cells. Recorded in ")
    out = tmp_path / "out"
    expected = {f"x_png_{output.ending}" for output in CELLS_OUTPUTS.values()} | {"run.json"}
    assert {path.name for path in out.iterdir()} == expected
    labels = tifffile.imread(out / "x_png_labels.tif")
    assert np.mean(labels != cells[:2].label_image()) < 0.01
    with (out / "x_png_table.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["cell", "cell"]


def test_the_record_tells_what_was_asked(prompt, tmp_path, triton):
    prompt("--box", "10,5,30,26", "--point", "20,15", "--point", "2,2,bg")
    run = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    entry = run["files"]["x.png"]
    wanted = [
        {"box": [10, 5, 30, 26], "points": [[20, 15], [2, 2]], "point_labels": [1, 0]},
    ]
    assert run["settings"] == {"prompts": wanted}
    assert entry["job"] == {"pipeline": "sam_prompt", "prompts": wanted}
    assert (entry["status"], entry["cells"], entry["qualities"]) == ("done", 1, [0.9])
    assert entry["outputs"] == ["x_png_labels.tif", "x_png_table.csv"]
    assert run["server"]["url"] == triton.url
    (request,) = asked(triton)
    assert request.inputs["prompt_labels"].tolist() == [[1, 0, 2, 3]]


@pytest.mark.parametrize("option", [("--numbers",), ("--pixel-size", 0.5)])
def test_the_overlay_shows_what_was_asked(prompt, tmp_path, option):
    picture = tmp_path / "out" / "x_png_overlay.png"
    arguments = ("--box", "10,5,30,26", "--save", "overlay")
    prompt(*arguments)
    plain = cv2.imread(str(picture))
    result = prompt(*arguments, *option)
    assert result.exit_code == ExitCode.DONE, result.output
    columns = np.nonzero((plain != cv2.imread(str(picture))).any(axis=2))[1]
    assert len(columns) > 20
    assert (option[0] == "--numbers") == (columns.min() < plain.shape[1] / 2)


def test_the_pixel_size_of_the_file_draws_a_scale_bar(prompt, images, tmp_path):
    pictures = []
    for metadata in ({"axes": "YX"}, {"axes": "YX", "PhysicalSizeX": 0.5}):
        (images / "x.png").unlink()
        tifffile.imwrite(
            images / "x.png", np.zeros((60, 80), np.uint8), ome=True, metadata=metadata
        )
        prompt("--box", "10,5,30,26", "--save", "overlay")
        pictures.append(cv2.imread(str(tmp_path / "out" / "x_png_overlay.png")))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        pytest.param("c.json", json.dumps(CELLS), CELLS, id="json"),
        pytest.param("c.JSON", "\ufeff" + json.dumps(CELLS), CELLS, id="byte-order-mark"),
        pytest.param(
            "c.csv",
            "x0,y0,x1,y1,note\n10,5,30,26,a\n1,2,3.5,4,b\n",
            [{"box": [10, 5, 30, 26]}, {"box": [1, 2, 3.5, 4]}],
            id="csv-of-boxes",
        ),
        pytest.param(
            "c.csv",
            "cell,x,y,label\nb,1,2,fg\na,5,6,1\nb,3,4,bg\n",
            [
                {"points": [[1, 2], [3, 4]], "point_labels": [1, 0]},
                {"points": [[5, 6]], "point_labels": [1]},
            ],
            id="csv-of-points",
        ),
        pytest.param(
            "c.csv",
            "x,y,cell\n1,2,7\n",
            [{"points": [[1, 2]], "point_labels": [1]}],
            id="csv-without-labels",
        ),
    ],
)
def test_files_of_prompts(prompt, tmp_path, triton, name, text, entries):
    file = tmp_path / name
    file.write_text(text, "utf-8")
    assert read_prompts(file).entries() == entries
    result = prompt("--prompts", file)
    assert result.exit_code == ExitCode.DONE, result.output
    assert len(asked(triton)[0].inputs["prompt_points"]) == len(entries)


def test_entries_are_read_as_they_were_written(tmp_path):
    prompts = Prompts(boxes=[(1, 2, 3, 4), None], points=[None, [(5, 6)]])
    (tmp_path / "c.json").write_text(json.dumps(prompts.entries()))
    assert read_prompts(tmp_path / "c.json").entries() == prompts.entries()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param([], "no prompts", id="nothing"),
        pytest.param(["--box", "1,2,3"], "given: '1,2,3'", id="three-numbers"),
        pytest.param(["--box", "a,2,3,4"], "x0,y0,x1,y1", id="text"),
        pytest.param(["--box", "5,5,2,8"], "inverted box, in row 0", id="inverted"),
        pytest.param(["--box", "5,5,5,8"], "without area", id="zero-area"),
        pytest.param(["--box", "nan,5,6,8"], "finite", id="nan"),
        pytest.param(["--box", "5,5,500,8"], "x from 0 to 80", id="outside"),
        pytest.param(["--point", "5,500"], "y from 0 to 60", id="point-outside"),
        pytest.param(["--point", "5"], "x,y,bg", id="point-of-one"),
        pytest.param(["--point", "5,6,no"], "given: '5,6,no'", id="label"),
        pytest.param(
            ["--box", "1,1,5,5", "--box", "6,6,9,9", "--point", "5,6"], "--prompts", id="mixed"
        ),
        pytest.param(["--prompts", "{file}", "--box", "1,1,5,5"], "given: both", id="both"),
        pytest.param(["--prompts", "{tmp}/none.json"], "none.json", id="no-file"),
        pytest.param(["--prompts", "{tmp}/c.txt"], ".json or .csv", id="ending"),
        pytest.param(["--box", "1,1,5,5", "--save", "mask"], "labels, table", id="kind"),
        pytest.param(["--box", "1,1,5,5", "--pipeline", "yolo"], "sam_prompt", id="pipeline"),
        pytest.param(["--box", "1,1,5,5", "--out", "{file}/y"], "cannot go to", id="out"),
        pytest.param(["--box", "1,1,5,5", "--timeout", "0"], "above 0", id="timeout"),
        pytest.param(["--box", "1,1,5,5", "--numbers"], "Add overlay to --save", id="numbers"),
        *(
            pytest.param(["--box", "1,1,5,5", "--pixel-size", size], told, id=size)
            for size, told in {
                "0": "(--pixel-size) is a number from",
                "-1": "given: -1.0",
                "nan": "given: nan",
                "inf": "given: inf",
                "wide": "'wide'",
            }.items()
        ),
    ],
)
def test_wrong_usage_is_refused_before_inference(prompt, tmp_path, triton, arguments, told):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(CELLS))
    result = prompt(*(text.format(tmp=tmp_path, file=file) for text in arguments))
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in " ".join(result.stderr.split())
    assert not asked(triton)
    assert not list(tmp_path.glob("out/x_*"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        pytest.param("c.json", "{", "can be read as JSON", id="no-json"),
        pytest.param("c.json", '{"box": [1, 2, 3, 4]}', "list of objects", id="one-object"),
        pytest.param("c.json", "[[1, 2, 3, 4]]", "list of objects", id="list-of-lists"),
        pytest.param("c.json", '[{"bbox": [1, 2, 3, 4]}]', "'bbox', in row 0", id="key"),
        pytest.param(
            "c.json", '[{"box": [1, 2, 3, 4]}, {}]', "no prompts, in row 1", id="empty-row"
        ),
        pytest.param("c.json", '[{"box": "1,2,3,4"}]', "Pass numbers", id="text-in-json"),
        pytest.param("c.json", "[]", "no prompts", id="no-cells"),
        pytest.param("c.csv", "", "given: none", id="empty-csv"),
        pytest.param("c.csv", "a,b\n1,2\n", "given: a,b", id="columns"),
        pytest.param("c.csv", "x0,y0,x1,y1\n1,2,,4\n", "in row 0", id="gap"),
        pytest.param("c.csv", "x0,y0,x1,y1\n1,2,3\n", "in row 0", id="short-row"),
        pytest.param("c.csv", "cell,x,y,label\n1,2,3,maybe\n", "'maybe', in row 0", id="csv-label"),
        pytest.param("c.csv", "x0,y0,x1,y1\n", "no prompts", id="header-only"),
    ],
)
def test_wrong_files_are_refused(prompt, tmp_path, triton, name, text, told):
    (tmp_path / name).write_text(text)
    result = prompt("--prompts", tmp_path / name)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in " ".join(result.stderr.split())
    assert not triton.asked


def test_other_failures_have_their_codes(prompt, command, triton, tmp_path, images):
    box = ("--box", "1,1,5,5")
    (images / "x.png").write_text("no image")
    assert prompt(*box).exit_code == ExitCode.USAGE
    result = command(
        "prompt", images / "x.tif", *box, "--out", tmp_path / "o", "--url", "localhost:9"
    )
    assert result.exit_code == ExitCode.SERVER_FAILED
    triton.fake._pipelines = ("yolo",)
    result = command("prompt", images / "x.tif", *box, "--out", tmp_path / "o", "--url", triton.url)
    assert result.exit_code == ExitCode.NOTHING_TO_DO


def test_segment_names_the_command_for_prompts(segment, triton, tmp_path):
    result = segment("--pipeline", "sam_prompt")
    assert result.exit_code == ExitCode.USAGE
    assert "cytoserve prompt IMAGE" in " ".join(result.stderr.split())
    assert not triton.asked
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(command):
    text = command("prompt", "--help").stdout
    assert "  cytoserve prompt x.png --out out --prompts cells.json\n" in text
    assert '{"points": [[99, 40], [120, 44]], "point_labels": [1, 0]}]' in text
