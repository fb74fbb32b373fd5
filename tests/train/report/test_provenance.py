"""When, where and with what a run was trained."""

import subprocess

from train.report import provenance


def test_what_is_known_of_this_process_and_nothing_empty(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["/a/python", "-m", "train.chain", "--workdir=a b"])
    made = provenance.current()
    assert made["command"] == "python -m train.chain '--workdir=a b'"
    assert made["devices"] == "8 × cpu" and made["cores"] >= 1 and made["processor"]
    assert made["date"].endswith("+00:00") and all(made.values())
    assert provenance.current("abc")["commit"] == "abc" and "commit" not in provenance.current("")


def test_the_commit_is_that_of_the_source_and_says_if_files_differ(tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        subprocess.run(command, check=True, capture_output=True)

    monkeypatch.setattr(provenance, "ROOT", tmp_path / "inside")
    assert provenance.commit() == ""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() == ""  # no repository
    (tmp_path / "inside").mkdir()
    (tmp_path / "file").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = provenance.commit()
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == f"{commit}+changes"
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "inside")  # of another project
    assert provenance.commit() == ""
