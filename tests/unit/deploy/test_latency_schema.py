import copy
import json

import pytest
from pydantic import ValidationError

from lomt.deploy.latency_profile import _layer_times
from lomt.deploy.latency_schema import LatencyFile, read_latency, write_latency
from lomt.errors import ArtifactError
from tests.unit.deploy.test_latency_report import REPORT


@pytest.fixture
def content():
    values = copy.deepcopy(REPORT.to_dict(include_times=True))
    values["profile"] = {"dense": _layer_times([{"name": "conv", "kind": "Conv", "ms": 1.0}]).to_dict()}
    return values


def test_a_report_is_written_and_read_back(content, tmp_path):
    write_latency(content, tmp_path / "latency.json")
    assert json.loads((tmp_path / "latency.json").read_text()) == content
    found = read_latency(tmp_path / "latency.json")
    assert found.arms["lomt"].median_ms == 2.0
    assert found.speed_ups["lomt"].is_distinguishable
    assert found.model_dump(by_alias=True)["schema"] == 2


def test_single_runs_and_profiles_may_be_missing():
    found = LatencyFile.model_validate(REPORT.to_dict())
    assert list(found.arms) == list(REPORT.arms)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda values: values.update(schema=1), "schema"),
        (lambda values: values.update(extra=1), "extra"),
        (lambda values: values["arms"]["dense"].pop("load_ms"), r"arms\.dense\.load_ms"),
        (lambda values: values["speed_ups"]["lomt"].update(ratio=-1), r"speed_ups\.lomt\.ratio"),
        (lambda values: values["arms"]["dense"]["times_ms"].append(["fast"]), r"arms\.dense\.times_ms"),
    ],
)
def test_what_does_not_fit_is_neither_written_nor_read(damage, place, content, tmp_path):
    damage(content)
    with pytest.raises(ValidationError):
        write_latency(content, tmp_path / "latency.json")
    assert not (tmp_path / "latency.json").exists()
    (tmp_path / "latency.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=f"to be a measurement of schema 2, but {place}"):
        read_latency(tmp_path / "latency.json")


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="to be a measurement, but there is no such file"):
        read_latency(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ArtifactError, match="to hold JSON, but it does not"):
        read_latency(tmp_path / "bad.json")


def test_editors_get_a_schema():
    schema = LatencyFile.model_json_schema()
    assert schema["properties"]["schema"]["const"] == 2
    assert schema["additionalProperties"] is False
