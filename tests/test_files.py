import pytest

from air.files import check_free, write_new


def test_a_file_is_written_and_not_overwritten(tmp_path):
    path = tmp_path / "a"
    assert write_new(str(path), b"old") == path
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_new(path, b"new")
    assert path.read_bytes() == b"old"
    write_new(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_file_that_came_since_the_check_is_not_overwritten(tmp_path, monkeypatch):
    def meanwhile(path, **_):
        path = tmp_path / "a"
        path.write_bytes(b"theirs")
        return path

    monkeypatch.setattr("air.files.check_free", meanwhile)
    with pytest.raises(FileExistsError, match="exists"):
        write_new(tmp_path / "a", b"ours")
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_no_folder_is_a_file_and_none_is_made(tmp_path):
    with pytest.raises(FileExistsError):
        check_free(tmp_path, overwrite=True)
    with pytest.raises(NotADirectoryError, match="Make it first"):
        write_new(tmp_path / "b" / "a", b"")
