"""What a run leaves and tells when it has ended, where that was asked for: report and alerts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steel_batch import layout
from steel_batch.alerts.conditions import (
    Checked,
    Condition,
    check,
    check_classes,
    failure_alerts,
    parse_condition,
)
from steel_batch.alerts.webhook import URL_VARIABLE, check_url, send_alerts
from steel_batch.cli.output import say
from steel_batch.config import ScoreConfig
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.runs.alerts import RunAlerts, put_alerts
from steel_batch.runs.record import RunResult

if TYPE_CHECKING:
    from steel_batch.report.day_figures import DayFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class Afterwards:
    """What is wanted of each run of a command that commits."""

    with_report: bool = False
    conditions: Sequence[Condition] = ()
    url: str | None = field(default=None, repr=False)
    """Where alerts are sent; a secret."""

    @classmethod
    def of(cls, *, with_report: bool, alert_if: Sequence[str], config: ScoreConfig) -> Afterwards:
        """What a command's flags ask for.

        Raises:
            ConfigError: A condition is none, or is about a class that the engine does not have.
        """
        conditions = [parse_condition(text) for text in alert_if]
        url = os.environ.get(URL_VARIABLE) or None
        if conditions and url is not None:
            check_url(url)
        if any(condition.class_name is not None for condition in conditions):
            from steel_batch.registry.versions import load_engine

            store = Lake(config.store, endpoint_url=config.endpoint_url)
            check_classes(conditions, load_engine(config.engine, store=store).card.classes)
        return cls(with_report=with_report, conditions=conditions, url=url)

    def run(self, config: ScoreConfig, result: RunResult) -> bool:
        """Check a run, send its alerts, and write these and the page next to its record.

        The run is committed, so what goes wrong here is said and raises nothing. Alerts are sent
        first: neither a store that cannot be written nor an error of the page holds them back.

        Returns:
            Whether every condition was checked, and the alerts were written.
        """
        if result.run_id is None or not result.committed:
            return True
        if not (self.with_report or self.conditions):
            return True
        # Most commands want neither page nor alerts, and start sooner without this.
        from steel_batch.answers.open_store import OpenStore
        from steel_batch.report.day_figures import DayFigures

        store = Lake(config.store, endpoint_url=config.endpoint_url)
        with contextlib.ExitStack() as stack:
            figures = DayFigures(
                lambda: stack.enter_context(OpenStore(store)), result.date, result.engine
            )
            checked = check(self.conditions, figures)
            is_done = self._tell_and_write(store, result, checked)
            if self.with_report:
                _write_page(store, figures, result, checked)
        return is_done

    def _tell_and_write(self, store: Lake, result: RunResult, checked: Checked) -> bool:
        if not self.conditions:
            return True
        run_id = str(result.run_id)
        self._tell(f"run {run_id}", checked.alerts)
        texts = tuple(condition.text for condition in self.conditions)
        try:
            put_alerts(store, run_id, RunAlerts(conditions=texts, alerts=checked.alerts))
        except (SteelBatchError, OSError) as error:
            say(
                f"{result.date}: the rows are committed, but its alerts could not be written: "
                f"{error}"
            )
            return False
        return checked.is_complete

    def failed(self, config: ScoreConfig, date: str, message: str) -> None:
        """Tell of a run that failed."""
        title = f"scoring of {date} with {config.engine}"
        self._tell(title, failure_alerts(self.conditions, message))

    def _tell(self, title: str, alerts: Sequence[str]) -> None:
        for alert in alerts:
            say(f"alert: {alert}")
        if alerts and self.url is not None:
            problem = send_alerts(self.url, title, alerts)
            if problem is not None:
                say(f"the alerts were not sent: {problem}")


def _write_page(store: Lake, figures: DayFigures, result: RunResult, checked: Checked) -> None:
    from steel_batch.report.day_facts import read_facts
    from steel_batch.report.day_page import render_day
    from steel_batch.report.scored_images import ScoredImages

    try:
        facts = read_facts(store, figures, why="as asked")
        page = render_day(facts, ScoredImages(store, None), checked.alerts)
        key = layout.run_file(str(result.run_id), layout.RUN_REPORT)
        store.write(key, page.encode())
        say(f"{result.date}: the report is {store.uri(key)}")
    except (SteelBatchError, OSError) as error:
        say(f"{result.date}: the rows are committed, but its report could not be written: {error}")
