from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from steel_batch import layout
from steel_batch.lake import Lake
from training.trackers import open_trackers

pytestmark = pytest.mark.filterwarnings("default")  # MLflow, where it is installed, has some
RECORDS = (
    {"step": 2, "loss": 0.5, "learning_rate": 1e-3},
    {"step": 4, "loss": 0.25, "learning_rate": 1e-3},
    {"step": 4, "validation_kaggle_dice": 0.75, "best_step": 4},
)


def scalars(data: bytes) -> Iterator[tuple[str, int, float]]:
    """What TensorBoard shows of one of its files: a length, a checksum, an event, a checksum."""
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value
        data = data[12 + size + 4 :]


def report_until_interrupted(store: Lake, folder: Path) -> None:
    with open_trackers(folder, store, "m-0123", {"seed": 1}) as report:
        for record in RECORDS:
            report(record)
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where MLflow, if there is any, keeps what it is told."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_tensorboards_files_lie_in_the_store_when_a_run_ends_however_it_does(
    lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        report_until_interrupted(lake, tmp_path / "work")
    (file,) = lake.list_objects(layout.training_file("m-0123", "tensorboard/"))
    found = list(scalars(lake.read(file.key)))
    assert [(tag, step) for tag, step, _ in found] == [
        ("loss", 2), ("learning_rate", 2), ("loss", 4), ("learning_rate", 4),
        ("validation/kaggle_dice", 4), ("best_step", 4),
    ]  # fmt: skip
    assert [value for _, _, value in found] == pytest.approx([0.5, 1e-3, 0.25, 1e-3, 0.75, 4])


def test_a_run_that_reports_nothing_leaves_no_file(lake: Lake, tmp_path: Path) -> None:
    with open_trackers(tmp_path / "work", lake, "m-0123", {"seed": 1}):
        pass
    assert list(lake.list_objects()) == []


def test_mlflow_gets_settings_and_figures(tmp_path: Path, tracking_uri: str) -> None:
    mlflow = pytest.importorskip("mlflow", reason="is not part of the test install")
    store = Lake(str(tmp_path / "store"))
    with open_trackers(tmp_path / "work", store, "m-0123", {"seed": 1}) as report:
        for record in RECORDS:
            report(record)
    client = mlflow.MlflowClient(tracking_uri)
    (run,) = client.search_runs(["0"])
    assert run.info.run_name == "m-0123"
    assert run.data.params == {"seed": "1"}
    assert run.data.metrics["validation_kaggle_dice"] == 0.75
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(2, 0.5), (4, 0.25)]
