"""The table, the verdicts and the summary of bench/vs_tcg.sh."""

import json

import rows
from rows import BY_NAME, INTEGER, NATIVE, TCG, Verdict, geomean, judge, limits_of


def number(value, unit):
    """A figure with its unit, in at most 12 characters."""
    if value is None:
        return "-"
    if unit == "ns":
        for unit, scale in ("ns", 1), ("us", 1e3), ("ms", 1e6):
            if value < 1000 * scale:
                break
        value /= scale
    digits = 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:.{digits}f} {unit}"


class Report:
    """Of rows as measured with an engine of ours, natively and on TCG."""

    def __init__(self, store, engine, names):
        self.store, self.ours, self.names = store, engine, names

    def _ratio_cell(self, name, above, below):
        ratio = self.store.ratio(name, above, below)
        if ratio is None:
            return "-"
        old = any(self.store.earlier(name, engine) for engine in (above, below))
        return f"{ratio:.2f}{'*' if old else ' '}"

    def _value_cell(self, name, engine):
        text = number(self.store.value(name, engine), BY_NAME[name].unit)
        return text + ("*" if self.store.earlier(name, engine) else " ")

    def _spread_cell(self, name):
        spread = self.store.spread(name, self.ours)
        return "-" if spread is None else f"{spread * 100:.0f} %"

    def _cells(self, name):
        if BY_NAME[name].unit == "times":
            ratios = ["-", "-", "-"]
        else:
            ratios = [self._ratio_cell(name, self.ours, NATIVE),
                      self._ratio_cell(name, TCG, NATIVE), self._ratio_cell(name, TCG, self.ours)]
        values = [self._value_cell(name, engine) for engine in (NATIVE, self.ours, TCG)]
        return [name, *values, *ratios, self._spread_cell(name)]

    def table(self):
        ours = self.ours
        head = ["", "native ", f"{ours} ", "tcg ", f"{ours}/native", "tcg/native", f"tcg/{ours}",
                "spread"]
        lines, group, old = [], None, False
        for name in self.names:
            if BY_NAME[name].group != group:
                group = BY_NAME[name].group
                lines.append(f"{group}")
            cells = self._cells(name)
            old = old or any("*" in cell for cell in cells)
            lines.append(self._line(cells))
        mean = [self.geomean(*pair) for pair in ((ours, NATIVE), (TCG, NATIVE), (TCG, ours))]
        if any(mean):
            cells = ["-" if m is None else f"{m:.2f} " for m in mean]
            lines += ["geometric mean", self._line([INTEGER, "", "", "", *cells, ""])]
        if old:
            lines.append("* from an earlier run")
        return "\n".join([self._line(head), *lines])

    @staticmethod
    def _line(cells):
        return (f"  {cells[0]:20}" + "".join(f"{c:>12}" for c in cells[1:4])
                + "".join(f"{c:>12}" for c in cells[4:7]) + f"{cells[7]:>9}").rstrip()

    def geomean(self, above, below):
        """Over the integer rows of the report that have both figures, or None."""
        ratios = [self.store.ratio(name, above, below) for name in self.names
                  if BY_NAME[name].group == INTEGER]
        ratios = [ratio for ratio in ratios if ratio]
        return geomean(ratios) if ratios else None

    def verdicts(self):
        found = []
        if all(row.name in self.names for row in rows.ROWS if row.group == INTEGER):
            found += judge(f"geometric mean of {INTEGER}", rows.GEOMEAN_LIMITS,
                           self.geomean(TCG, self.ours), self.geomean(self.ours, NATIVE))
        for name in self.names:
            limits = limits_of(BY_NAME[name], self.store.ratio(name, TCG, NATIVE))
            if limits:
                found += judge(name, limits, self.store.ratio(name, TCG, self.ours),
                               self.store.ratio(name, self.ours, NATIVE))
        scaling = self.store.value("two_busy", self.ours)
        if "two_busy" in self.names and scaling is not None:
            found.append(Verdict(f"two_busy: {scaling:.2f} times one VCPU, at least"
                                 f" {rows.TWO_BUSY}", scaling >= rows.TWO_BUSY))
        return found

    def problems(self):
        """Rows whose results are not the same everywhere."""
        return [f"{name}: checksums differ: {' '.join(sorted(map(str, sums)))}"
                for name in self.names if len(sums := self.store.checksums(name)) > 1]

    def ratios(self):
        """(row, ours to native, TCG to native) of the rows that have both."""
        found = [(name, self.store.ratio(name, self.ours, NATIVE),
                  self.store.ratio(name, TCG, NATIVE))
                 for name in self.names if BY_NAME[name].unit != "times"]
        return [row for row in found if row[1] and row[2]]

    def write_summary(self, path):
        """One JSON line for each row."""
        with open(path, "w", encoding="utf-8") as f:
            for name in self.names:
                line = {"bench": "vs_tcg", "row": name, "unit": BY_NAME[name].unit,
                        "engine": self.ours}
                for key, engine in ("native", NATIVE), ("ours", self.ours), ("tcg", TCG):
                    line[key] = self.store.value(name, engine)
                    line[f"{key}_earlier"] = self.store.earlier(name, engine)
                f.write(json.dumps(line) + "\n")
