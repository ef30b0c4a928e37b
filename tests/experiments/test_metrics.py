"""Metrics: arithmetic that can be checked by hand."""

from decimal import Decimal

from services.governance.experiments import metrics
from services.governance.experiments.metrics import Answer, Item


def item(label: str, candidate: str | None, production: str | None = None, group: str = "") -> Item:
    def answer(said: str | None) -> Answer | None:
        return None if said is None else Answer(said, said == label, 100.0, Decimal("0.01"))

    return Item(label, group, answer(candidate), answer(production))


def test_a_missing_item_and_an_empty_answer_are_wrong_and_without_an_answer() -> None:
    items = [item("weak", "weak"), item("weak", None), item("clean", ""), item("clean", "weak")]
    rates = metrics.rates(items, metrics.candidate)
    assert (rates["accuracy"].hits, rates["accuracy"].n) == (1, 4)
    assert (rates["error_rate"].hits, rates["error_rate"].n) == (2, 4)


def test_alarm_rates_count_what_was_caught_missed_and_wrongly_raised() -> None:
    items = [item("weak", "weak"), item("weak", "weak"), item("weak", "clean"), item("clean", "weak")]
    items += [item("clean", "clean")] * 6
    found = {key: (rate.hits, rate.n) for key, rate in metrics.rates(items, metrics.candidate).items()}
    assert found["precision"] == (2, 3)
    assert found["recall"] == (2, 3)
    assert found["false_positive_rate"] == (1, 7)
    assert found["security_pass_rate"] == (9, 10)


def test_alarm_rates_exist_only_where_one_of_two_labels_is_an_alarm() -> None:
    assert metrics.alarm([item("weak", None), item("repaired", None)]) == "weak"
    assert metrics.alarm([item("cat", None), item("dog", None)]) is None
    assert metrics.alarm([item("weak", None), item("clean", None), item("odd", None)]) is None
    assert metrics.alarm([item("weak", None), item("unsafe", None)]) is None
    assert "recall" not in metrics.rates([item("cat", "cat"), item("dog", "dog")], metrics.candidate)


def test_a_rate_over_nothing_does_not_exist() -> None:
    items = [item("weak", "clean"), item("clean", "clean")]
    assert "precision" not in metrics.rates(items, metrics.candidate)


def test_a_quantile_is_a_value_that_was_seen() -> None:
    assert metrics.quantile([1.0], 0.95) == 1.0
    assert metrics.quantile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert metrics.quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0


def test_an_increase_from_nothing_has_no_ratio() -> None:
    assert metrics.increase(Decimal(0), Decimal(0)) == 0.0
    assert metrics.increase(Decimal(1), Decimal(0)) is None
    assert metrics.increase(Decimal("1.2"), Decimal(1)) == 0.2


def test_the_table_leaves_out_production_where_there_is_none() -> None:
    rows = {row["key"]: row for row in metrics.table([item("weak", "weak"), item("clean", "weak")], compared=False)}
    assert rows["accuracy"] == {"key": "accuracy", "candidate": 0.5, "production": None, "n": 2}
    assert rows["cost_usd"]["candidate"] == 0.02
    assert "cost_increase" not in rows
