"""Label sheets of every form through `thinker import-labels`, and what it writes read back."""

import csv
import json
from pathlib import Path

import pytest
import scipy.io

from thinker.cli.main import main
from thinker.data.datasets import load_dataset_config, load_eval_examples, load_train_examples
from thinker.data.labels.cells import number_of, path_of, text_of
from thinker.data.labels.preset import load_preset, preset_names
from thinker.data.labels.preview import histogram
from thinker.data.records import BadValueError

HEADER = ["name", "MOS", "source"]
ROWS = [["a\\1.mp4", 12.5, "s1"], ["a\\2.mp4", 90.0, "s1"], ["b/3.mp4", 40.0, "s2"]]
ARGUMENTS = ["--path-column", "name", "--mos-column", "MOS", "--content-column", "source"]


def run(sheet: Path, *arguments: str, output: str = "set.jsonl", columns=ARGUMENTS) -> int:
    given = [*columns, *arguments, "--output", str(sheet.parent / output)]
    return main(["import-labels", str(sheet), *given])


def write_text(path: Path, encoding: str, delimiter: str, comma: bool = False) -> None:
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        for row in [HEADER, *ROWS]:
            cells = [
                str(cell).replace(".", ",") if comma and cell is row[1] else cell for cell in row
            ]
            writer.writerow(cells)


def write_xlsx(path: Path, rows: list[list], sheets: tuple[str, ...] = ("Sheet1",)) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for name in sheets[:-1]:
        book.create_sheet(name).append(["only", "words"])
    sheet = book.create_sheet(sheets[-1])
    for row in rows:
        sheet.append(row)
    del book["Sheet"]
    book.save(path)


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    columns = {name: [row[i] for row in ROWS] for i, name in enumerate(HEADER)}
    write_table(pyarrow.table(columns), path)


def cells(values: list[str]):
    import numpy as np

    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def write_mat(path: Path) -> None:
    names, mos, source = zip(*ROWS, strict=True)
    variables = {
        "name": cells(list(names)),
        "MOS": [[m] for m in mos],
        "source": cells(list(source)),
    }
    scipy.io.savemat(path, variables)


RECORDS = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
WRITERS = {
    "plain.csv": lambda p: write_text(p, "utf-8", ","),
    "excel.csv": lambda p: write_text(p, "utf-8-sig", ";", comma=True),
    "unicode.txt": lambda p: write_text(p, "utf-16", "\t"),
    "unmarked.tsv": lambda p: write_text(p, "utf-16-le", "\t"),
    "second.xlsx": lambda p: write_xlsx(p, [HEADER, *ROWS], ("readme", "labels")),
    "list.json": lambda p: p.write_bytes(b"\xef\xbb\xbf" + json.dumps(RECORDS).encode()),
    "inside.json": lambda p: p.write_text(json.dumps({"version": 1, "data": RECORDS})),
    "columns.json": lambda p: p.write_text(
        json.dumps({name: [row[i] for row in ROWS] for i, name in enumerate(HEADER)})
    ),
    "lines.jsonl": lambda p: p.write_bytes(
        b"\xef\xbb\xbf" + b"".join(json.dumps(r).encode() + b"\r\n" for r in RECORDS)
    ),
    "table.parquet": write_parquet,
    "matlab.mat": write_mat,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_data_set(tmp_path, monkeypatch, name, capsys):
    WRITERS[name](tmp_path / name)
    for path in ("a/1.mp4", "a/2.mp4", "b/3.mp4"):
        (tmp_path / "videos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / path).touch()
    comma = ["--decimal-comma"] if name == "excel.csv" else []
    root = ["--media-root", str(tmp_path / "videos")]
    assert run(tmp_path / name, "--scale", "0:100", *root, *comma) == 0
    shown = capsys.readouterr().out
    assert "3 labels, 0 bad lines; from 12.5 to 90, mean 47.5; 2 contents" in shown
    assert "10 to  20  1  ####" in shown  # 12.5 alone
    examples = load_train_examples(load_dataset_config(tmp_path / "set.yaml")).examples
    assert [(e.id, e.mos, e.target, e.content) for e in examples] == [
        ("set/a/1.mp4", 12.5, 1.5, "s1"),  # 1 + 4 * 12.5 / 100
        ("set/a/2.mp4", 90.0, 4.6, "s1"),
        ("set/b/3.mp4", 40.0, 2.6, "s2"),
    ]


def test_every_bad_line_is_told_and_nothing_is_written(tmp_path, capsys):
    sheet = tmp_path / "bad.csv"
    lines = [
        "name,MOS",
        "a.mp4,3",
        ",3",
        "b.mp4,",
        "c.mp4,good",
        "d.mp4,7",
        "a.mp4,4",
        "../e.mp4,3",
    ]
    lines += ["C:\\v\\f.mp4,3", 'g.mp4,"3,5"', "", "h.mp4,2"]
    sheet.write_text("\n".join(lines))
    columns = ["--path-column", "name", "--mos-column", "MOS", "--scale", "1:5"]
    assert run(sheet, columns=columns) == 2
    out, err = capsys.readouterr()
    reasons = {
        3: "no path",
        4: "no label",
        5: "'good' is not a number",
        6: "outside the declared scale",
    }
    reasons |= {7: "'a.mp4' is given twice, first on line 2", 8: "without ..", 9: "is absolute"}
    reasons |= {10: "declare a decimal comma"}
    for line, reason in reasons.items():
        assert any(f"bad.csv:{line}: " in told and reason in told for told in out.splitlines()), (
            line
        )
    assert "2 labels, 8 bad lines" in out and "Nothing was written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]
    assert run(sheet, "--skip-bad-lines", columns=columns) == 0
    assert len((tmp_path / "set.jsonl").read_text().splitlines()) == 2
    assert run(sheet, "--skip-bad-lines", columns=columns) == 2  # what is there is kept
    assert "is there; delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "arguments", "reason"),
    [
        ("s.csv", "name,MOS\na,1\n", ["--path-column", "nme"], "'nme'; did you mean 'name'"),
        ("s.csv", "name,name,MOS\na,b,1\n", [], "2 columns of the name 'name'"),
        ("s.csv", "a,1\n", ["--path-column", "1", "--mos-column", "3"], "none of number 3"),
        ("s.csv", "", [], "is empty"),
        ("s.csv", b"name,MOS\n\xe9.mp4,1\n", [], "is not utf-8"),
        ("s.csv", "name,MOS\na,1\n", ["--encoding", "utf8x"], "encoding 'utf8x' is not known"),
        ("s.csv", "name,MOS\na,1\n", ["--encoding", "base64"], "encoding 'base64' is not known"),
        ("s.csv", 'name,MOS,x\na,1,\nb,2,"\nc,3,\nd,4,', [], "a quote that line 3"),
        ("s.csv", "name,MOS\na,1\n", ["--scale", "5"], "MOS scale '5:linear'"),
        ("s.csv", "name,MOS\na,1\n", ["--preset", "konviq"], "there is no preset 'konviq'"),
        ("s.csv", "name,MOS\na,1\n", ["--media-root", "/nowhere"], "is not a folder"),
        ("s.xls", "", [], "Save it as .xlsx"),
        ("s.xlsx", "no zip", [], "is no XLSX workbook"),
        ("s.parquet", "no table", [], "is no Parquet file"),
        ("s.mat", "no variables", [], "is no MAT file"),
        ("s.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM", [], "save(name, '-v7')"),
        ("s.json", "[1, 2", [], "broken JSON"),
        ("s.json", '{"a": {"b": 1}}', [], "expected a list of records"),
        ("s.json", '{"name": ["a"], "MOS": [1, 2]}', [], "differ in length"),
        ("s.jsonl", '{"name": "a"}\n', [], "no column 'MOS'"),
        ("s.csv", "name,MOS\na,1\n", [], "labels to train on need the scale"),
    ],
)  # fmt: skip
def test_what_a_user_can_get_wrong(tmp_path, capsys, name, content, arguments, reason):
    if name == "s.xlsx":
        pytest.importorskip("openpyxl")
    sheet = tmp_path / name
    sheet.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(sheet, *arguments, columns=["--path-column", "name", "--mos-column", "MOS"]) == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_rows_of_json_that_are_no_records_are_bad_lines(tmp_path, capsys):
    sheet = tmp_path / "s.jsonl"
    sheet.write_text('{"n": {"path": "a.mp4"}, "mos": 1}\n["b.mp4", 2]\n7\n{"mos": 3}\n{"n": \n')
    columns = ["--path-column", "n.path", "--mos-column", "mos"]
    assert run(sheet, "--skip-bad-lines", columns=columns, output="set.json") == 0
    out = capsys.readouterr().out
    assert "1 labels, 4 bad lines" in out
    for line, reason in {2: "is no record", 3: "7 is no record", 4: "no path", 5: "broken"}.items():
        assert f"s.jsonl:{line}: " in out and reason in out


def test_a_sheet_without_header_and_a_set_to_evaluate_on(tmp_path):
    sheet = tmp_path / "mos_with_names.txt"
    sheet.write_text("5.51 I01_01_1\n4.2 I01_02_1\n")
    columns = [
        "--path-column",
        "2",
        "--mos-column",
        "1",
        "--add-suffix",
        ".bmp",
        "--name",
        "My set",
    ]
    assert run(sheet, "--media-root", str(tmp_path), columns=columns, output="own.json") == 2
    assert run(sheet, columns=columns, output="own.json") == 0
    (own,) = load_dataset_config(
        tmp_path / "own.yaml", variables={"VIDEO_ROOT": str(tmp_path)}
    ).eval
    assert (own.name, own.key, own.num_videos, own.mos_scale) == ("My set", "my_set", 2, None)
    examples = load_eval_examples(own).examples
    assert [(e.id, e.mos, e.target) for e in examples] == [
        ("my_set/I01_01_1.bmp", 5.51, None), ("my_set/I01_02_1.bmp", 4.2, None),
    ]  # fmt: skip


def test_parts_become_files_to_train_and_to_evaluate_on(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("name,MOS,set\na.mp4,1,Training\nb.mp4,2,test\nc.mp4,3,Training\n")
    columns = ["--path-column", "name", "--mos-column", "MOS", "--split-column", "set"]
    assert run(sheet, "--scale", "0:5:identity", columns=columns) == 0
    config = load_dataset_config(tmp_path / "set.yaml", variables={"VIDEO_ROOT": "/"})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "s.csv", "set.yaml", "set_test.json", "set_training.jsonl",
    ]  # fmt: skip
    assert config.train[0].jsonl.name == "set_training.jsonl"
    assert [(one.name, one.key, one.num_videos) for one in config.eval] == [
        ("set test", "set_test", 1)
    ]


PRESET_FILES = {
    "koniq_10k": "image_name,c1,c5,c_total,MOS,SD,set\n1.jpg,0,.1,105,77.3,.5,training\n",
    "koniq_10k_scores": '"image_name","c1","MOS","SD","MOS_zscore"\n"1.jpg",0,3.8,.5,77.3\n',
    "kadid_10k": "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.49\n",
    "lsvq": "name,p1,height,width,mos,is_test\nyfcc-batch1/7,\"[2, 3]\",1080,1920,78.7,True\n",
    "lsvq_1080p": "name,p1,height,width,mos\nyfcc-batch1/722,\"[2, 3]\",1080,1920,78.7\n",
    "konvid_1k": "flickr_id,file_name,MOS\n33,33_original_centercrop_960x540_8s.mp4,3.1\n",
    "live_yt_hfr": "File Names,1Runner_crf_0_24fps,1Runner_crf_0_30fps\nMOS,41.9,45.6\nstd,3,4\n",
    "cgvds": "File,MOS,VQ_EC,Content\nGTA5_30_1280x720_20_300_h264_nvenc.mp4,1.35,1.86,GTA5\n",
    "spaq": ".xlsx", "live_vqc": ".mat", "live_yt_gaming": ".mat",
}  # fmt: skip
"""Small files with the headers of the sources that the presets name."""
PRESET_PATHS = {
    "koniq_10k": ["1.jpg"], "koniq_10k_scores": ["1.jpg"], "kadid_10k": ["I01_01_01.png"],
    "lsvq": ["yfcc-batch1/7.mp4"], "lsvq_1080p": ["yfcc-batch1/722.mp4"],
    "konvid_1k": ["33_original_centercrop_960x540_8s.mp4"],
    "live_yt_hfr": ["1Runner_crf_0_24fps.mp4", "1Runner_crf_0_30fps.mp4"],
    "cgvds": ["GTA5_30_1280x720_20_300_h264_nvenc.mp4"], "spaq": ["00001.jpg"],
    "live_vqc": ["A001.mp4"], "live_yt_gaming": ["CSGO-002.mp4"],
}  # fmt: skip


@pytest.mark.parametrize("name", preset_names())
def test_presets_read_files_of_their_form(tmp_path, name):
    preset = load_preset(name)
    sheet = tmp_path / preset.file
    if name == "spaq":
        write_xlsx(sheet, [["Image name", "MOS", "Brightness"], ["00001.jpg", 51.67, 54.33]])
    elif sheet.suffix == ".mat":
        values = {
            "live_vqc": ("video_list", "A001.mp4", "mos"),
            "live_yt_gaming": ("video_list", "CSGO-002", "MOS"),
        }
        key, path, mos = values[name]
        scipy.io.savemat(sheet, {key: cells([path, f"x{path}"]), mos: [[46.1], [50.0]]})
    else:
        sheet.write_text(PRESET_FILES[name])
    assert run(sheet, "--preset", name, columns=[], output="own.json") == 0
    config = load_dataset_config(tmp_path / "own.yaml", variables={"VIDEO_ROOT": str(tmp_path)})
    files = [tmp_path / p for p in ("own.json", "own_train.jsonl", "own_test.json")]
    written = "".join(path.read_text() for path in files if path.exists())
    assert all(f'"{path}"' in written for path in PRESET_PATHS[name])
    assert config.name.startswith(preset.name) and preset.source in str(config.source)


def test_presets_are_those_that_have_a_source():
    assert set(preset_names()) == set(PRESET_FILES)
    for name in preset_names():
        preset = load_preset(name)
        assert preset.source.startswith("https://") and preset.scale[0] < preset.scale[1]


@pytest.mark.parametrize(
    ("cell", "comma", "number"),
    [
        (" 67.75\t", False, 67.75), ("1,234.5", False, 1234.5), ("1,234,567", False, 1234567.0),
        ("67,75", True, 67.75), ("1.234,5", True, 1234.5), ("1 234,5", True, 1234.5),
        (3, False, 3.0), ("-1'000.5", False, -1000.5), ("1e1", False, 10.0),
        ("3.500", True, 3500.0),
    ],
)  # fmt: skip
def test_numbers(cell, comma, number):
    assert number_of(cell, decimal_comma=comma) == number


@pytest.mark.parametrize(
    ("cell", "comma"),
    [
        ("3,500", False), ("3,5", False), ("3.5", True), ("1,23,456", False), ("٣", False),
        ("nan", False), (float("nan"), False), (float("inf"), False), (True, False), ("1_0", False),
    ],
)  # fmt: skip
def test_no_numbers(cell, comma):
    with pytest.raises(BadValueError):
        number_of(cell, decimal_comma=comma)


def test_paths_and_names():
    assert path_of("C:\\v\\a\\1", strip_prefix="C:\\v", add_suffix=".mp4") == "a/1.mp4"
    assert path_of("./a//b.mp4", add_suffix=".mp4") == "a/b.mp4"
    assert text_of(3425371223.0, "path") == "3425371223"
    for bad in ("/a.mp4", "a/../b", "", None, "a\0b", "x" * 256, "C:/a.mp4"):
        with pytest.raises(BadValueError):
            path_of(bad)


def test_histogram_of_the_docstring():
    lines = histogram([1, 5, 5], (1, 5)).splitlines()
    assert lines[0].split()[:4] == ["1", "to", "1.4", "1"]
    assert lines[-1].split()[:4] == ["4.6", "to", "5", "2"]
