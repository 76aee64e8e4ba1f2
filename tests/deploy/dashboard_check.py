#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""dashboard_check.py PROMETHEUS DASHBOARD ALERTS: every query of the dashboard answers with numbers, and every metric that alerts
name is there. PROMETHEUS is a URL; its servers are under load. Looks until it is so, LOOKS times at most: who is paused loses none."""
import json
import math
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


LOOKS = 120


def ask(url, path, **parameters):
    with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
        return json.load(answer)["data"]


def queries(dashboard):
    for panel in json.loads(pathlib.Path(dashboard).read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")


def answers(url, query):
    """Whether each series that comes is a number, and one comes."""
    try:
        result = ask(url, "/api/v1/query", query=query)["result"]
    except urllib.error.URLError:  # not ready yet; a query that can not be understood is refused to the end
        return False
    return bool(result) and all(math.isfinite(float(series["value"][1])) for series in result)


def main(url, dashboard, alerts):
    waiting = list(queries(dashboard))
    assert len(waiting) > 20, "the dashboard has hardly any query"
    named = set(re.findall(r"\b(?:lstm|process|nv)_[a-z_]+", " ".join(re.findall(r"expr: (.*)", pathlib.Path(alerts).read_text()))))
    assert len(named) > 10, "alerts name hardly any metric"
    total = len(waiting)
    for _ in range(LOOKS):
        waiting = [(title, query) for title, query in waiting if not answers(url, query)]
        if not waiting:
            break
        time.sleep(0.5)
    else:
        sys.exit("queries without an answer:\n" + "\n".join(f"  {title}: {query}" for title, query in waiting))
    missing = named - set(ask(url, "/api/v1/label/__name__/values"))
    if missing:
        sys.exit(f"alerts name what no server has: {', '.join(sorted(missing))}")
    rules = [rule for group in ask(url, "/api/v1/rules")["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] == "err"]
    if not rules or broken:
        sys.exit(f"rules that can not be evaluated, of {len(rules)}: {broken}")
    print(f"{total} queries of the dashboard answer, {len(named)} metrics of {len(rules)} alerts are there")


if __name__ == "__main__":
    main(*sys.argv[1:])
