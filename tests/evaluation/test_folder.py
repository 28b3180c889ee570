"""The folder of an evaluation: only its own files are replaced."""

from hagan3d.evaluation.report.folder import is_done


def test_a_forced_evaluation_deletes_its_own_caches_alone(tmp_path):
    for name in ("features/features.npz", "features/features.csv", "features/test-000000.npz", "metrics.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert not is_done(tmp_path, "key", audited=False, force=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"features/features.npz", "features/features.csv"}
