"""Feature extractors and the summaries of sets of volumes."""
