"""Figures of this run and of earlier ones, in a file of JSON lines."""

import json
import os
import statistics
import time

from rows import BY_NAME


class Store:
    """
    A figure is a dictionary: row, engine, value, checksum, key, run, rep, time. Its key tells what
    it was measured with; figures with another key than this run's are as if they were not there.
    """

    def __init__(self, path, key, best=False):
        """best: what stands for the figures of a run is the best of them, not their median."""
        self.path, self.key, self.best = path, key, best
        self.run = time.strftime("%Y-%m-%dT%H:%M:%S")
        self.figures = []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                self.figures = [figure for figure in map(json.loads, f) if figure["key"] == key]

    def add(self, row, engine, rep, value, checksum=None):
        figure = {"row": row, "engine": engine, "value": value, "checksum": checksum,
                  "key": self.key, "run": self.run, "rep": rep, "time": round(time.time())}
        self.figures.append(figure)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(figure) + "\n")

    def latest(self, row, engine):
        """The figures of the latest run that has any: a list, maybe empty."""
        found = [f for f in self.figures if f["row"] == row and f["engine"] == engine]
        return [f for f in found if f["run"] == found[-1]["run"]]

    def measured(self, row, engine):
        """How many figures this run has."""
        return sum(f["run"] == self.run for f in self.latest(row, engine))

    def earlier(self, row, engine):
        """The figures are there, but of an earlier run."""
        return bool(self.latest(row, engine)) and not self.measured(row, engine)

    def value(self, row, engine):
        """What stands for the figures, or None."""
        values = [f["value"] for f in self.latest(row, engine)]
        if not values:
            return None
        if not self.best:
            return statistics.median(values)
        return max(values) if BY_NAME[row].unit == "times" else min(values)

    def spread(self, row, engine):
        """The distance of the extremes, as a part of the median."""
        values = [f["value"] for f in self.latest(row, engine)]
        return (max(values) - min(values)) / statistics.median(values) if values else None

    def ratio(self, row, above, below):
        """The value of one engine over that of another, or None."""
        a, b = self.value(row, above), self.value(row, below)
        return a / b if a and b else None

    def checksums(self, row):
        """What the engines computed, as far as it is known: one element if all agree."""
        engines = {f["engine"] for f in self.figures if f["row"] == row}
        return {f["checksum"] for engine in engines for f in self.latest(row, engine)}
