"""Monthly figures from a table that another team delivers."""
import sys
from pathlib import Path

import pandas

COLUMNS = ["month", "region", "turnover"]


def figures(delivered: Path) -> pandas.DataFrame:
    table = pandas.read_parquet(delivered, columns=COLUMNS)
    missing = set(COLUMNS) - set(table.columns)
    if missing:
        raise SystemExit(f"columns are missing: {sorted(missing)}")
    return table.groupby(["month", "region"])["turnover"].sum().reset_index()


print(figures(Path(sys.argv[1])).to_string())
