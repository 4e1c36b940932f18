"""Where shipped recipes lie."""

from pathlib import Path

from lomt.recipe import shipped, shipped_paths, shipped_recipes


def test_the_checkout_comes_first():
    folder = Path(__file__).resolve().parents[3] / "recipes"
    paths = shipped_paths()
    assert set(paths.values()) == set(folder.glob("*.yaml"))
    assert all(name == path.stem for name, path in paths.items())


def test_the_purpose_is_the_first_line():
    purposes = dict(shipped_recipes())
    assert purposes["rooms_demo"].startswith("All stages in minutes on synthetic rooms")
    assert all(purposes.values())


def test_installed_copies_are_found(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "lomt" / "recipe"
    share = tmp_path / "share" / "lomt" / "recipes"
    share.mkdir(parents=True)
    (share / "mine.yaml").write_text("name: mine\n")
    monkeypatch.setattr(shipped, "__file__", str(package / "shipped.py"))
    monkeypatch.setattr(shipped.sysconfig, "get_path", lambda name, *scheme: str(tmp_path))
    assert shipped_recipes() == [("mine", "")]


def test_without_any_recipes_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "_folders", lambda: [tmp_path])
    assert shipped_recipes() == []
