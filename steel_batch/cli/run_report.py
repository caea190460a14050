"""What a run leaves and tells when it has ended, where that was asked for: report and alerts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steel_batch import layout
from steel_batch.alerts.conditions import (
    Condition,
    Figures,
    alerts_of,
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
    from steel_batch.report.day_facts import DayFacts


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

    def run(self, config: ScoreConfig, result: RunResult) -> None:
        """Write the page about a run's date and its alerts next to its record, and send these.

        The run is committed: what goes wrong here is said, and ends nothing.
        """
        if result.run_id is None or not result.committed:
            return
        if not (self.with_report or self.conditions):
            return
        # Most commands want neither page nor alerts, and start sooner without this.
        from steel_batch.answers.open_store import OpenStore
        from steel_batch.report.day_facts import DAYS_BEFORE, read_facts
        from steel_batch.report.day_page import render_day
        from steel_batch.report.scored_images import ScoredImages

        store = Lake(config.store, endpoint_url=config.endpoint_url)
        try:
            with OpenStore(store) as opened:
                facts = read_facts(
                    store, opened, result.date, engine=result.engine, against=None,
                    num_days=DAYS_BEFORE,
                )  # fmt: skip
                alerts = alerts_of(self.conditions, figures_of(facts))
                if self.with_report:
                    key = layout.run_file(result.run_id, layout.RUN_REPORT)
                    page = render_day(facts, ScoredImages(store, None), alerts)
                    store.write(key, page.encode())
                    say(f"{result.date}: the report is {store.uri(key)}")
            if self.conditions:
                texts = tuple(condition.text for condition in self.conditions)
                written = RunAlerts(conditions=texts, alerts=tuple(alerts))
                put_alerts(store, result.run_id, written)
        except (SteelBatchError, OSError) as error:
            say(
                f"{result.date}: the rows are committed, but its report and alerts could not be "
                f"written: {error}"
            )
            return
        self._tell(f"run {result.run_id}", alerts)

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


def figures_of(facts: DayFacts) -> Figures:
    """What conditions are about, of a date."""
    from steel_batch.drift.words import sentence

    images, bad = facts.num_images, facts.num_quarantined
    return Figures(
        images=images,
        quarantined=bad / max(1, images + bad),
        defect_rates={
            name: sum(int(line.found_TC[-1, number - 1]) for line in facts.lines) / max(1, images)
            for number, name in facts.classes.items()
        },
        drifts=[sentence(drift, facts.dates, facts.classes) for drift in facts.comparison.drifts],
    )
