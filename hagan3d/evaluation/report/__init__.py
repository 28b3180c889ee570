"""The evaluation protocol, its verdicts and the HTML report."""
